//go:build tools

// Package tools pins the Pulumi engine and CLI; see ../../toolchain.py.
package tools

import _ "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"

//go:build tools

// Package tools pins etcd; see ../../toolchain.py.
package tools

import _ "go.etcd.io/etcd/server/v3"

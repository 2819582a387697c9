//go:build tools

// Package tools pins the Istio and Gateway API custom resource definitions; see ../../toolchain.py.
package tools

import (
	_ "istio.io/api/networking/v1"
	_ "sigs.k8s.io/gateway-api/apis/v1"
)

//go:build tools

// Package tools pins Flagger, its load tester, and the load generator that this one starts; see ../../toolchain.py.
package tools

import (
	_ "github.com/fluxcd/flagger/cmd/flagger"
	_ "github.com/fluxcd/flagger/cmd/loadtester"
	_ "github.com/rakyll/hey"
)

"""Routing stand-in: Istio's routing resources translated to Envoy configuration, without a cluster or a clock."""

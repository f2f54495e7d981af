"""Whether our engine decides as real Envoy does with the RBAC filters that Istio makes of the same policies."""

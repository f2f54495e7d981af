"""Meshward: identity, authorization and quota for a service mesh of Envoy sidecars."""

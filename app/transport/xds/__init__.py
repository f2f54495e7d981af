"""xDS, the protocol by which Envoy subscribes to resources: the exchange of one stream, for resources of any type."""

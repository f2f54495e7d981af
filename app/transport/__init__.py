"""How calls arrive: gRPC over ASGI, and REST."""

"""gRPC over ASGI: framing, status, streams and serving, for any ASGI server that sends trailers."""

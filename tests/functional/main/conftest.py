"""Control planes that run as processes."""

from tests.support.fixtures.control_plane import replicas, serving, shared_server

__all__ = ["replicas", "serving", "shared_server"]

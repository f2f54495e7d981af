"""Control planes that run as processes."""

from tests.support.fixtures.control_plane import serving, shared_server

__all__ = ["serving", "shared_server"]

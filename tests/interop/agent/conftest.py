"""Control planes that run as processes."""

from tests.support.fixtures.control_plane import serving

__all__ = ["serving"]

"""Control planes that run as processes, and databases for them."""

from tests.support.fixtures.control_plane import replicas, serving, shared_server
from tests.support.fixtures.databases import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url", "replicas", "serving", "shared_server"]

"""Control planes that run as processes."""

import pytest

from tests.support.fixtures.control_plane import serving, shared_server

__all__ = ["replicas", "serving", "shared_server"]


@pytest.fixture
def replicas(serving, postgres_url, tmp_path):
    """Two of them with one secret, started at once on an empty database."""
    secret = tmp_path / "replica.secret"
    secret.write_bytes(bytes(range(32)))
    secret.chmod(0o600)
    settings = {"database_url": postgres_url, "ca_secret_file": secret}
    started = [serving.launch(name, **settings) for name in ("one", "two")]
    return [server.wait_until_ready() for server in started]

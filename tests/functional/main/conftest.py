"""Control planes that run as processes: one of its own for a test, or one that the tests of a directory share."""

import pytest

from tests.functional.main.serving import Serving


@pytest.fixture
def serving(tmp_path):
    serving = Serving(tmp_path)
    yield serving
    serving.end()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    serving = Serving(tmp_path_factory.mktemp("serve"))
    yield serving.start()
    serving.end()

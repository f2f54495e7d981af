"""A real nginx: the path that it serves for a request is among the readings that the request is checked under."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.nginx_process import RECORDED, nginx_started, nginx_version
from tests.support.targets import KNOWN, PIECES, is_among_readings

pytestmark = pytest.mark.peer

targets = st.lists(st.sampled_from(PIECES), max_size=7).map(lambda pieces: "/" + "".join(pieces)) | st.sampled_from(
    KNOWN
)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory):
    with nginx_started(tmp_path_factory.mktemp("nginx")) as nginx:
        yield nginx


@pytest.mark.parametrize("merge_slashes", [True, False])
def test_what_nginx_serves_is_a_reading(nginx, merge_slashes):
    @settings(max_examples=400, deadline=None)
    @given(targets)
    def holds(target):
        served = nginx.served(target, merge_slashes=merge_slashes)
        assert served is None or is_among_readings(target, served)

    holds()


def test_the_recorded_answers_are_nginxs(nginx):
    recorded = json.loads(RECORDED.read_text())
    if nginx_version() != recorded["version"]:
        pytest.skip(f"recorded with {recorded['version']}, this is {nginx_version()}")
    for target, *expected in recorded["readings"]:
        served = [nginx.served(target, merge_slashes=merge) for merge in (True, False)]
        assert [None if each is None else each.decode("latin-1") for each in served] == expected, target

"""Whatever resource a server makes of a path is among the readings of the path, or the path is denied."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.authz.rules.paths import MAX_PATH_LENGTH, MAX_READINGS, normalised, read_path
from tests.fakes import path_servers
from tests.support.targets import KNOWN, PIECES, is_among_readings, random_targets

RECORDED = Path(__file__).parents[2] / "assets" / "nginx_readings.json"

targets = st.lists(st.sampled_from(PIECES), max_size=7).map(lambda pieces: "/" + "".join(pieces)) | st.sampled_from(
    KNOWN
)


@settings(max_examples=600)
@given(targets, st.lists(st.sampled_from(path_servers.STEPS), max_size=8))
@example("/items//../secret", [path_servers.merge_slashes, path_servers.resolve_dots])
def test_every_order_of_steps_leads_to_a_reading(target, steps):
    resource = target.encode()
    for step in steps:
        resource = step(resource)
    assert is_among_readings(target, resource)


@pytest.mark.parametrize(
    "server", [path_servers.servlet_container, path_servers.python_files, path_servers.python_files_undecoded]
)
def test_what_a_server_serves_is_a_reading(server):
    for target in (*KNOWN, *random_targets(3000)):
        resource = server(target.encode())
        assert resource is None or is_among_readings(target, resource), target


def test_what_nginx_serves_is_a_reading():
    for target, *resources in json.loads(RECORDED.read_text())["readings"]:
        for resource in resources:
            assert resource is None or is_among_readings(target, resource.encode("latin-1")), target


@settings(max_examples=300)
@given(targets)
def test_readings_are_few_and_can_all_be_evaluated(target):
    found = read_path(target)
    # Envoy's normalised form is one more if the proxy did not normalise the path; each is read in lower case as well.
    assert len(found.others) <= 2 * (MAX_READINGS + 1)
    assert all(reading.isascii() and reading.isprintable() and reading.startswith("/") for reading in found.others)
    assert found.problem or found.path not in found.others
    assert all(len(reading) <= MAX_PATH_LENGTH for reading in found.others)


@settings(max_examples=300)
@given(targets)
def test_a_normalised_path_is_normalised_to_itself(target):
    found = read_path(target)
    if not found.problem:
        path = normalised(found.path)
        assert normalised(path) == path
        assert path in (found.path, *found.others)

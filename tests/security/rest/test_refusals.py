"""A flood of requests without the admin token is counted by reason, and is not a flood of lines."""

import pytest
from structlog.testing import capture_logs

from app.telemetry.refusals import MAX_LINES
from tests.support.fixtures.rest import TOKEN

FLOOD = 300


@pytest.mark.parametrize(
    ("path", "headers", "reason", "status"),
    [
        ("/v1/things", {}, "no_credential", 401),
        ("/v1/things", {"authorization": "Bearer hunter2"}, "wrong_token", 401),
        ("/v1/things", {"authorization": "Basic hunter2"}, "not_a_bearer_token", 401),
        ("/nothing", {}, "not_found", 404),
    ],
)
async def test_a_flood_of_refused_requests_is_counted_and_not_logged_one_by_one(
    stranger, metrics, path, headers, reason, status
):
    with capture_logs() as logs:
        for _ in range(FLOOD):
            assert (await stranger.get(path, headers=headers)).status_code == status
    assert metrics.refusals.value("admin", reason) == FLOOD
    lines = [entry for entry in logs if entry["log_level"] != "debug"]
    assert len(lines) == MAX_LINES
    assert {(line["event"], line["refusal"], line["path"]) for line in lines} == {("request_refused", reason, path)}
    assert "hunter2" not in str(logs)


async def test_requests_with_the_token_are_logged_and_their_errors_are_no_refusals(client, metrics):
    with capture_logs() as logs:
        assert (await client.get("/v1/fail/NotFoundError")).status_code == 404
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("http_request", "info")]
    assert TOKEN not in str(logs)
    assert metrics.refusals.value("admin", "not_found") == 0

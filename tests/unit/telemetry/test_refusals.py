"""Refusals are counted, all of them, and logged within a bound."""

from structlog.testing import capture_logs

from app.telemetry.metrics import Metrics
from app.telemetry.refusals import MAX_LINES, Refusals


def test_the_first_refusals_of_a_reason_are_logged_and_the_others_are_reported_by_their_number():
    refusals = Refusals()
    with capture_logs() as logs:
        for _ in range(MAX_LINES + 7):
            refusals.record("grpc", "no_certificate", peer="10.0.0.7:1")
        refusals.record("grpc", "rate_limit", peer="10.0.0.8:1")
        assert [entry["refusal"] for entry in logs] == ["no_certificate"] * MAX_LINES + ["rate_limit"]
        assert logs[0]["peer"] == "10.0.0.7:1"
        refusals.report()
    assert {key: logs[-1][key] for key in ("event", "refusal", "left_out")} == {
        "event": "refusals_left_out",
        "refusal": "no_certificate",
        "left_out": 7,
    }
    assert refusals.value("grpc", "no_certificate") == MAX_LINES + 7


def test_a_report_starts_over():
    refusals = Refusals()
    for _ in range(MAX_LINES + 1):
        refusals.record("grpc", "rate_limit")
    refusals.report()
    with capture_logs() as logs:
        refusals.report()
        refusals.record("grpc", "rate_limit")
    assert [entry["event"] for entry in logs] == ["request_refused"]


def test_refusals_are_published():
    metrics = Metrics()
    metrics.refusals.record("admin", "wrong_token")
    assert b'meshward_refusals_total{reason="wrong_token",surface="admin"} 1.0' in metrics.render()

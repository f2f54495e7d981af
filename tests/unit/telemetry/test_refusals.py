"""Refusals are counted, all of them, and logged within a bound."""

from structlog.testing import capture_logs

from app.telemetry.metrics import Metrics
from app.telemetry.refusals import AUDITED_LINES, MAX_LINES, Refusals
from tests.fakes.clock import ManualClock


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


def test_each_audited_refusal_is_logged_within_a_bound_for_each_address():
    clock = ManualClock()
    refusals = Refusals(clock.monotonic)
    with capture_logs() as logs:
        for number in range(AUDITED_LINES.burst + 5):
            refusals.record("grpc", "certificate", audited="10.0.0.7", error_id=str(number))
        refusals.record("grpc", "certificate", audited="10.0.0.8", error_id="other")
        clock.advance(1)
        refusals.record("grpc", "certificate", audited="10.0.0.7", error_id="later")
        refusals.report()
    ids = [entry["error_id"] for entry in logs if entry["event"] == "request_refused"]
    assert ids == [*map(str, range(AUDITED_LINES.burst)), "other", "later"]
    assert (logs[-1]["event"], logs[-1]["left_out"]) == ("refusals_left_out", 5)


def test_refusals_are_published():
    metrics = Metrics()
    metrics.refusals.record("admin", "wrong_token")
    assert b'meshward_refusals_total{reason="wrong_token",surface="admin"} 1.0' in metrics.render()

"""The decision log: what is asked for, within its bound, and what was left out is told."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from app.core.decision import Decision, Observation, Outcome, Watch
from app.telemetry.decisions import MAX_LINES_PER_SECOND, DecisionLog
from tests.fakes.authz import request, with_connection
from tests.fakes.checks import Policies
from tests.fakes.clock import ManualClock

ALLOWED = Decision(Outcome.ALLOW, "allowed by rules[0] of policy a/b", "a/b", "rules[0]")
DENIED = Decision(Outcome.DENY, "no rule matches")


@pytest.mark.parametrize(
    ("mode", "allowed", "denied"), [("off", False, False), ("denied", False, True), ("all", True, True)]
)
def test_a_mode_is_what_is_written(mode, allowed, denied):
    log = DecisionLog(mode, ManualClock().monotonic)
    assert (log.wants(ALLOWED), log.wants(DENIED)) == (allowed, denied)


@pytest.mark.parametrize(
    ("watch", "result", "notable"),
    [
        (Watch.AUDIT, "matched", True),
        (Watch.DRY_RUN_DENY, "denied", True),
        (Watch.DRY_RUN_ALLOW, "denied", True),
        (Watch.DRY_RUN_ALLOW, "allowed", False),
    ],
)
def test_what_is_audited_or_would_be_denied_is_written_with_the_denials(watch, result, notable):
    decision = replace(ALLOWED, observed=(Observation(watch, result, "a/c", "rules[2]"),))
    wanted = [DecisionLog(mode, ManualClock().monotonic).wants(decision) for mode in ("off", "denied", "all")]
    assert wanted == [False, notable, True]
    with capture_logs() as lines:
        DecisionLog("all", ManualClock().monotonic).write(decision, {"path": "/"})
    assert lines[0][watch.value] == f"{result} by rules[2] of a/c"


def test_a_flood_is_counted_and_not_written():
    clock = ManualClock()
    log = DecisionLog("all", clock.monotonic)
    with capture_logs() as lines:
        for _ in range(MAX_LINES_PER_SECOND + 7):
            log.write(DENIED, {"path": "/"})
        clock.advance(1)
        log.write(ALLOWED, {"path": "/last"})
    assert len(lines) == MAX_LINES_PER_SECOND + 1
    assert lines[-1]["left_out"] == "7"
    assert (lines[-1]["policy"], lines[-1]["rule"], lines[-1]["path"]) == ("a/b", "rules[0]", "/last")


async def test_a_denial_is_written_with_what_it_was_about_and_without_the_query():
    service = Policies(decisions="denied")
    await service.refresh()
    headers: dict[str, tuple[str, ...]] = {"x-request-id": ("r-1",), "authorization": ("Bearer secret",)}
    asked = request("/" + "x" * 1000, source="spiffe://cluster.local/ns/shop/sa/web", headers=headers)
    with capture_logs() as lines:
        assert not service.check(with_connection(asked, workload=None)).allowed
        assert service.check(asked).allowed
        service.malformed("its path has a NUL")
    assert [line["decision"] for line in lines] == ["deny", "deny"]
    assert lines[0]["source"] == "cluster.local/ns/shop/sa/web"
    assert lines[0]["request_id"] == "r-1"
    assert len(lines[0]["path"]) == 256
    assert "secret" not in str(lines)

"""Hits of one request that are counted all, or none if a limit refuses one of them."""

from collections.abc import Sequence
from typing import NamedTuple

from app.quota.model import CounterKey, Hit, LimitId, Outcome


class AllOrNone(NamedTuple):
    """How the hits of a request go together.

    `refusing` has for each whether the request is refused if it is over its limit, else it is counted for itself.
    Unless it `counts`, the request is only asked about. `passing` has for each whether a counter that cannot be read
    lets the request pass; without any, none does.
    """

    refusing: Sequence[bool]
    counts: bool = True
    passing: Sequence[bool] = ()


def admit(hits: Sequence[Hit], probes: Sequence[Outcome]) -> list[Outcome]:
    """Return what `hits` would come to one after another, from the outcomes of asking for none: nothing is counted."""
    taken: dict[tuple[LimitId, CounterKey], int] = {}
    outcomes = []
    for hit, probe in zip(hits, probes, strict=True):
        counter = hit.limit_id, hit.key
        wanted = taken.get(counter, 0) + hit.hits
        if probe.allowed and wanted <= probe.remaining:
            taken[counter] = wanted
            outcomes.append(probe)
        else:
            outcomes.append(probe._replace(allowed=False, remaining=0))
    return outcomes


def refuses(joint: AllOrNone, outcomes: Sequence[Outcome]) -> bool:
    """Return whether a limit refuses the request."""
    return any(refusing and not outcome.allowed for refusing, outcome in zip(joint.refusing, outcomes, strict=True))

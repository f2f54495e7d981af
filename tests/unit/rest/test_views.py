"""Answers made out of dataclasses."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import Field

from app.spiffe.id import SpiffeId
from app.transport.rest.views import Seconds, Text, View


@dataclass(frozen=True)
class Thing:
    spiffe_id: SpiffeId
    ttl: timedelta | None
    names: tuple[str, ...]
    made_at: datetime
    internal: int = 7


class ThingView(View):
    spiffe_id: Text
    ttl_seconds: Seconds | None = Field(validation_alias="ttl")
    names: list[str]
    made_at: datetime


class ThingsView(View):
    things: list[ThingView]


@dataclass(frozen=True)
class Things:
    things: tuple[Thing, ...]


def thing(ttl):
    return Thing(SpiffeId.parse("spiffe://example.org/a"), ttl, ("b",), datetime(2026, 1, 1, tzinfo=UTC))


def test_a_view_has_the_fields_that_it_names_in_their_plain_form():
    assert ThingView.model_validate(thing(timedelta(minutes=1))).model_dump(mode="json") == {
        "spiffe_id": "spiffe://example.org/a",
        "ttl_seconds": 60,
        "names": ["b"],
        "made_at": "2026-01-01T00:00:00Z",
    }


def test_a_view_of_views_is_made_at_once():
    view = ThingsView.model_validate(Things((thing(None), thing(timedelta(seconds=1)))))
    assert [each.ttl_seconds for each in view.things] == [None, 1]

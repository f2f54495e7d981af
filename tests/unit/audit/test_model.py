"""What an audit record contains."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum

from app.audit.model import AuditRecord, record_of, state_of
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from tests.fakes.principals import OPERATOR

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Thing:
    spiffe_id: SpiffeId
    ttl: timedelta | None
    names: tuple[str, ...]
    colour: Colour
    made_at: datetime
    count: int
    secret: str = field(repr=False)


def thing(ttl):
    return Thing(SpiffeId.parse("spiffe://example.org/a"), ttl, ("b", "c"), Colour.RED, NOW, 3, "hush")


def test_a_record_names_its_caller_and_how_that_was_authenticated():
    assert record_of(OPERATOR, NOW, "thing.create", "a", after={"x": 1}) == AuditRecord(
        at=NOW,
        principal="admin_token",
        credential="admin_token",
        address=OPERATOR.address,
        request_id=OPERATOR.request_id,
        action="thing.create",
        target="a",
        after={"x": 1},
    )


def test_a_workload_is_named_by_its_spiffe_id():
    workload = Principal(Credential.SVID, SpiffeId.parse("spiffe://example.org/a"))
    record = record_of(workload, NOW, "thing.create", "a")
    assert (record.principal, record.credential) == ("spiffe://example.org/a", "svid")


def test_a_state_is_a_json_object_in_the_spelling_of_the_admin_api_without_secrets():
    assert state_of(thing(timedelta(minutes=2, milliseconds=1))) == {
        "spiffe_id": "spiffe://example.org/a",
        "ttl_seconds": 120,
        "names": ["b", "c"],
        "colour": "red",
        "made_at": "2026-01-01T12:00:00Z",
        "count": 3,
    }


def test_a_duration_that_is_not_set_has_the_same_name():
    assert state_of(thing(None))["ttl_seconds"] is None

"""The record of one change."""

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, get_args

from app.core.json_text import JsonText
from app.spiffe.principal import Principal

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

State = Mapping[str, object] | None
"""An object as JSON, None where there is none."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One change: who made it and how that was proved, what was done to which object, its state before and after.

    `action` is a verb and a kind, `policy.apply`; `target` names the one object, `shop/no-admin`. `before` is None for
    what was created, `after` for what was deleted; neither holds a secret. `number` grows with every record of the
    database; it is None until the record is stored.
    """

    at: datetime
    principal: str
    credential: str
    address: str
    request_id: str
    action: str
    target: str
    before: State = None
    after: State = None
    number: int | None = None


def record_of(
    principal: Principal, at: datetime, action: str, target: str, *, before: State = None, after: State = None
) -> AuditRecord:
    """Return the record of a change that `principal` makes at `at`; `before` and `after` are JSON objects."""
    who = (principal.name, principal.credential.value, principal.address, principal.request_id)
    return AuditRecord(at, *who, action, target, _as_text(before), _as_text(after))


def _as_text(state: State) -> State:
    return None if state is None else JsonText.of(state)


def state_of(value: "DataclassInstance") -> dict[str, object]:
    """Return a dataclass as a JSON object for `before` and `after`, in the spelling of the admin API.

    A duration is a number of seconds under its name with `_seconds`. Fields that `repr` leaves out are secrets, and
    are left out.
    """
    return {_name(field): _plain(getattr(value, field.name)) for field in fields(value) if field.repr}


def _name(field: "Field[object]") -> str:
    is_duration = timedelta in {field.type, *get_args(field.type)}
    return f"{field.name}_seconds" if is_duration else field.name


def _plain(content: object) -> object:
    match content:
        case None | bool() | int() | float() | str():
            return content
        case datetime():
            return content.isoformat().replace("+00:00", "Z")
        case timedelta():
            return int(content.total_seconds())
        case Enum():
            return content.value
        case tuple() | list():
            return [_plain(item) for item in content]
        case _:
            return str(content)

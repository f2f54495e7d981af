"""The record of one change."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from app.spiffe.principal import Principal


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
    before: Mapping[str, object] | None = None
    after: Mapping[str, object] | None = None
    number: int | None = None


def record_of(
    principal: Principal,
    at: datetime,
    action: str,
    target: str,
    *,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
) -> AuditRecord:
    """Return the record of a change that `principal` makes at `at`; `before` and `after` are JSON objects."""
    return AuditRecord(
        at=at,
        principal=principal.name,
        credential=principal.credential.value,
        address=principal.address,
        request_id=principal.request_id,
        action=action,
        target=target,
        before=before,
        after=after,
    )

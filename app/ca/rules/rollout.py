"""Whether everybody trusts a root that is to sign: what replicas report of their streams, put together."""

from collections.abc import Collection, Sequence
from datetime import datetime
from enum import Enum
from hashlib import sha256

from app.ca.model import Acknowledgements, Behind, OnTimeout, ReplicaReport, Root, RotationConfig, Signer, Stage
from app.ca.rules.lifecycle import Trust
from app.spiffe.id import SpiffeId
from app.spiffe.subscribers import Subscriber

# How many of those that are waited for are named; the others are counted.
MAX_NAMED = 100
# Of an identity in a report: no two of a mesh have the same by accident.
DIGEST_BYTES = 16
# How much of what a client reports of itself is kept.
MAX_TEXT = 256


class Due(Enum):
    """What is to be done about the roots now."""

    PREPARE = "prepare"
    ACTIVATE = "activate"


def due(trust: Trust, rotation: RotationConfig, now: datetime) -> Due | None:
    """Return what the schedule asks for, None if nothing, as outside the life of the active root."""
    active = trust.active
    if active is None or rotation.prepare_at is None or not active.not_before <= now <= active.not_after:
        return None
    if active.origin is not None:  # its operator gives the next one
        return None
    share = (now - active.not_before) / (active.not_after - active.not_before)
    if trust.prepared is None:
        return Due.PREPARE if share >= rotation.prepare_at else None
    activates = share >= rotation.activate_at and trust.stage(trust.prepared.id) is Stage.PREPARED
    return Due.ACTIVATE if activates else None


def digest(spiffe_id: SpiffeId) -> bytes:
    """Return what stands for an identity in a report."""
    return sha256(str(spiffe_id).encode()).digest()[:DIGEST_BYTES]


def report_of(
    replica: str,
    beat: int,
    bundle: str,
    streams: Sequence[Subscriber],
    signers: Sequence[Signer],
    *,
    identities: bool,
) -> ReplicaReport:
    """Return the report of a replica whose bundle has the version; with `identities`, which of them are up to date."""
    late = [each for each in streams if each.bundle != bundle]
    late_ids = {each.spiffe_id for each in late}
    current = {each.spiffe_id for each in streams} - late_ids if identities else set()
    return ReplicaReport(
        id=replica,
        beat=beat,
        bundle=bundle,
        streams=len(streams),
        behind_count=len(late),
        behind=tuple(_behind(each) for each in late[:MAX_NAMED]),
        up_to_date=b"".join(sorted(digest(each) for each in current)),
        signers=tuple(sorted(signer.id for signer in signers)),
    )


def acknowledgements(
    root: Root,
    bundle: str,
    reports: Sequence[ReplicaReport],
    signers: Sequence[Signer],
    unrenewed: Collection[SpiffeId],
) -> Acknowledgements:
    """Return who has accepted the bundle with a root, which has the version `bundle`.

    `signers` are the signing authorities under the root; `unrenewed` are identities that were last issued a certificate
    before the root was in the bundle.
    """
    under = {signer.id for signer in signers if signer.root_id == root.id}
    waited = [each.id for each in reports if each.bundle != bundle or under.isdisjoint(each.signers)]
    known = {
        each.up_to_date[start : start + DIGEST_BYTES]
        for each in reports
        if each.bundle == bundle
        for start in range(0, len(each.up_to_date), DIGEST_BYTES)
    }
    identities = sorted((each for each in unrenewed if digest(each) not in known), key=str)
    behind = [each for report in reports for each in report.behind]
    return Acknowledgements(
        streams=sum(each.streams for each in reports),
        behind_count=sum(each.behind_count for each in reports),
        behind=tuple(behind[:MAX_NAMED]),
        identities_count=len(identities),
        identities=tuple(identities[:MAX_NAMED]),
        replicas=tuple(sorted(waited)),
    )


def is_acknowledged(bundle: str, reports: Sequence[ReplicaReport]) -> bool:
    """Whether every stream at every replica has accepted the bundle of the version `bundle`."""
    return all(each.bundle == bundle and not each.behind_count for each in reports)


def is_refused(found: Acknowledgements, since: datetime, rotation: RotationConfig, now: datetime) -> bool:
    """Whether an activation that was asked for at `since` is refused, as not everybody was ready in time."""
    late = not found.complete and now >= since + rotation.timeout
    return late and rotation.on_timeout is OnTimeout.REFUSE


def is_activated(found: Acknowledgements, since: datetime, rotation: RotationConfig, now: datetime) -> bool:
    """Whether a root that is activating becomes active now."""
    late = now >= since + rotation.timeout
    return found.complete or (late and rotation.on_timeout is OnTimeout.PROCEED)


def _behind(subscriber: Subscriber) -> Behind:
    return Behind(
        str(subscriber.spiffe_id), subscriber.address, subscriber.node[:MAX_TEXT], subscriber.problem[:MAX_TEXT]
    )

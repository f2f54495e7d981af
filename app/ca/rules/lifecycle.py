"""The life of authorities: prepared, active, old, tainted, revoked. Which change follows on which, and whom to trust.

| to | from | what is required besides |
|---|---|---|
| prepared | a new root | no other root is prepared |
| activating | prepared | |
| active | prepared, activating, old | the one that was active becomes old |
| prepared | activating | not everybody was ready in time |
| tainted | old | |
| revoked | tainted, prepared, activating, verify-only | |

A root from outside becomes activating, or verify-only, by what its operator gives (`adopted`).

A signing authority is active from its certificate on, and can be tainted, after which another one replaces it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.ca.model import AuthorityStage, Origin, Root, Signer, Stage
from app.core.errors import NotFoundError, PreconditionError
from app.spiffe.bundle import MAX_ROOTS

_WAITING = frozenset({Stage.PREPARED, Stage.ACTIVATING})
_IN_BUNDLE = frozenset({*_WAITING, Stage.ACTIVE, Stage.OLD, Stage.VERIFY_ONLY, Stage.TAINTED})
# What an old root has signed is good, so that a replica may go on with it until it has a signer of the active one.
_SIGNS = frozenset({Stage.ACTIVE, Stage.OLD})
_WITHDRAWN = frozenset({Stage.TAINTED, Stage.REVOKED})

NO_ACTIVE_ROOT = "no root of the CA is active: prepare one and activate it (meshward ca prepare)"


@dataclass(frozen=True, slots=True)
class Trust:
    """The roots of the trust domain, oldest first, and the stages of authorities by their ids.

    A root without a stage is not trusted; `of` has the one exception.
    """

    roots: tuple[Root, ...]
    stages: Mapping[str, AuthorityStage]

    @classmethod
    def of(cls, roots: Sequence[Root], stages: Sequence[AuthorityStage]) -> "Trust":
        """Return what stored roots and stages amount to: a root that is the only one is active without a stage.

        That is how a database of versions without stages is. Of several, none is: their stages were deleted, and one of
        them may be revoked.
        """
        known = {each.id: each for each in stages}
        if len(roots) == 1 and roots[0].id not in known:
            (root,) = roots
            known[root.id] = AuthorityStage(root.id, Stage.ACTIVE, 1, root.created_at)
        return cls(tuple(roots), known)

    @property
    def trusted(self) -> tuple[Root, ...]:
        """The roots in the trust bundle."""
        return tuple(root for root in self.roots if self.stage(root.id) in _IN_BUNDLE)

    @property
    def active(self) -> Root | None:
        """The root that signs, None if its stage is not in the database."""
        return self._at(Stage.ACTIVE)

    @property
    def prepared(self) -> Root | None:
        """The root that is to be active next, if there is one: prepared, or activating."""
        return self._at(*_WAITING)

    @property
    def targets(self) -> tuple[Root, ...]:
        """The roots that each replica is to have a signing authority under: the active one, and the prepared one."""
        return tuple(root for root in (self.active, self.prepared) if root is not None)

    @property
    def sequence(self) -> int:
        """How many changes of authorities there have been."""
        return max((each.number for each in self.stages.values()), default=0)

    def stage(self, authority_id: str) -> Stage | None:
        """Return the stage of an authority, None if it has none."""
        found = self.stages.get(authority_id)
        return None if found is None else found.stage

    def stage_of(self, authority: Root | Signer) -> AuthorityStage | None:
        """Return the stage of an authority; that of a signing authority without one is its root's."""
        own = self.stages.get(authority.id)
        return self.stages.get(authority.root_id) if own is None and isinstance(authority, Signer) else own

    def may_sign(self, signer: Signer) -> bool:
        """Whether SVIDs may be signed by a signing authority."""
        return self.stage(signer.root_id) in _SIGNS and self.stage(signer.id) not in _WITHDRAWN

    def is_withdrawn(self, signer: Signer) -> bool:
        """Whether all that a signing authority has signed is to be replaced."""
        return self.stage(signer.root_id) in _WITHDRAWN or self.stage(signer.id) in _WITHDRAWN

    def _at(self, *stages: Stage) -> Root | None:
        return next((root for root in self.roots if self.stage(root.id) in stages), None)


def prepared(trust: Trust, root_id: str, now: datetime) -> tuple[AuthorityStage, ...]:
    """Return the change by which a new root is prepared. Raises PreconditionError if it may not be, with the reason."""
    check_prepare(trust)
    return (_next(trust, root_id, Stage.PREPARED, now),)


def check_prepare(trust: Trust) -> None:
    """Raise PreconditionError, with the reason, if no root may be prepared."""
    if trust.prepared is not None:
        waiting = trust.prepared.id
        raise PreconditionError(f"the root {waiting} is prepared already: activate or revoke it first")
    if len(trust.trusted) >= MAX_ROOTS:
        raise PreconditionError(f"the trust bundle has {MAX_ROOTS} roots: revoke old ones first")


def activating(trust: Trust, root_id: str, now: datetime) -> tuple[AuthorityStage, ...]:
    """Return the changes by which a root is to become active: an old one at once, as everybody trusts it.

    Raises NotFoundError, or PreconditionError with the reason.
    """
    match check_root(trust, root_id):
        case Stage.PREPARED:
            return (_next(trust, root_id, Stage.ACTIVATING, now),)
        case Stage.ACTIVATING:
            raise PreconditionError(f"the root {root_id} is activating already")
        case _:
            return activated(trust, root_id, now)


def completed(trust: Trust, root_id: str, now: datetime) -> tuple[AuthorityStage, ...]:
    """Return the changes by which a root that is activating is active. Raises PreconditionError."""
    _check_activating(trust, root_id)
    return activated(trust, root_id, now)


def held_back(trust: Trust, root_id: str, now: datetime) -> tuple[AuthorityStage, ...]:
    """Return the change by which a root that was to become active does not. Raises PreconditionError."""
    _check_activating(trust, root_id)
    return (_next(trust, root_id, Stage.PREPARED, now),)


def activated(trust: Trust, root_id: str, now: datetime) -> tuple[AuthorityStage, ...]:
    """Return the changes by which a root becomes the active one. Raises NotFoundError, or PreconditionError."""
    match check_root(trust, root_id):
        case Stage.PREPARED | Stage.ACTIVATING | Stage.OLD:
            pass
        case Stage.ACTIVE:
            raise PreconditionError(f"the root {root_id} is active already")
        case Stage.VERIFY_ONLY:
            raise PreconditionError(f"there is no signing authority under the root {root_id} here: plug in one")
        case _ as stage:
            raise PreconditionError(f"the root {root_id} is {_shown(stage)}: prepare a new one instead")
    before = trust.active
    change = _next(trust, root_id, Stage.ACTIVE, now)
    if before is None:
        return (change,)
    return AuthorityStage(before.id, Stage.OLD, change.number, now), change


def adopted(
    trust: Trust, anchor_id: str, other_ids: Collection[str], now: datetime, *, changed: bool
) -> tuple[AuthorityStage, ...]:
    """Return the changes by which the roots of an authority from outside are trusted, and the one above it is to sign.

    That is the anchor; a first root signs at once. If the authority has `changed`, so does one that was old, and one
    that was held back is activating again; otherwise an operator's decision stands. Another root from outside that
    was to sign no longer is. Raises PreconditionError if the anchor is not trusted any more, or a root of our own is to
    be active next.
    """
    changes = [_next(trust, each, Stage.VERIFY_ONLY, now) for each in other_ids if trust.stage(each) is None]
    match trust.stage(anchor_id):
        case None | Stage.VERIFY_ONLY:
            if not trust.stages:
                return (*changes, _next(trust, anchor_id, Stage.ACTIVE, now))
            waiting = trust.prepared
            if waiting is not None and waiting.origin is None:
                problem = f"the root {waiting.id} is {_shown(trust.stage(waiting.id))}: activate or revoke it first"
                raise PreconditionError(f"{problem}; one root at a time is to be active next")
            if waiting is not None:
                changes.append(_next(trust, waiting.id, Stage.VERIFY_ONLY, now))
            return (*changes, _next(trust, anchor_id, Stage.ACTIVATING, now))
        case Stage.PREPARED if changed:
            return (*changes, _next(trust, anchor_id, Stage.ACTIVATING, now))
        case Stage.OLD if changed:
            return (*changes, *activated(trust, anchor_id, now))
        case Stage.TAINTED | Stage.REVOKED as stage:
            raise PreconditionError(f"its root {anchor_id} is {_shown(stage)}: have it signed by another root")
    return tuple(changes)


def followed(trust: Trust, origin: Origin, present_ids: Collection[str], now: datetime) -> tuple[AuthorityStage, ...]:
    """Return the changes by which the roots of one origin are trusted that are present there, and others no more.

    One that was active is tainted first; the active one stays until another is.
    """
    changes = [_next(trust, each, Stage.VERIFY_ONLY, now) for each in present_ids if trust.stage(each) is None]
    for root in trust.roots:
        if root.origin is not origin or root.id in present_ids:
            continue
        match trust.stage(root.id):
            case Stage.OLD:
                changes.append(_next(trust, root.id, Stage.TAINTED, now))
            case Stage.VERIFY_ONLY | Stage.PREPARED | Stage.ACTIVATING | Stage.TAINTED:
                changes.append(_next(trust, root.id, Stage.REVOKED, now))
    return tuple(changes)


def tainted(trust: Trust, authority_id: str, now: datetime, signers: Sequence[Signer]) -> tuple[AuthorityStage, ...]:
    """Return the change by which an authority is tainted, an old root or one of the `signers`.

    Raises NotFoundError, or PreconditionError with the reason.
    """
    # A root from outside may sign SVIDs itself: then it is both, and tainted as a root.
    is_root = any(root.id == authority_id for root in trust.roots)
    if not is_root and any(signer.id == authority_id for signer in signers):
        if trust.stage(authority_id) is not None:
            raise PreconditionError(f"the signing authority {authority_id} is {_shown(trust.stage(authority_id))}")
        return (_next(trust, authority_id, Stage.TAINTED, now),)
    match check_root(trust, authority_id):
        case Stage.OLD:
            return (_next(trust, authority_id, Stage.TAINTED, now),)
        case Stage.ACTIVE:
            raise PreconditionError(f"the root {authority_id} is active: prepare another and activate that first")
        case Stage.PREPARED | Stage.ACTIVATING | Stage.VERIFY_ONLY:
            raise PreconditionError(f"the root {authority_id} has signed nothing that is in use: revoke it")
        case _ as stage:
            raise PreconditionError(f"the root {authority_id} is {_shown(stage)} already")


def revoked(trust: Trust, root_id: str, now: datetime) -> tuple[AuthorityStage, ...]:
    """Return the change by which a root leaves the trust bundle. Raises NotFoundError, or PreconditionError."""
    match check_root(trust, root_id):
        case Stage.TAINTED | Stage.PREPARED | Stage.ACTIVATING | Stage.VERIFY_ONLY:
            return (_next(trust, root_id, Stage.REVOKED, now),)
        case Stage.OLD:
            raise PreconditionError(f"the root {root_id} is old: taint it first, so that what it signed is replaced")
        case Stage.ACTIVE:
            raise PreconditionError(f"the root {root_id} is active: prepare another and activate that first")
        case _ as stage:
            raise PreconditionError(f"the root {root_id} is {_shown(stage)} already")


def check_root(trust: Trust, root_id: str) -> Stage | None:
    """Return the stage of a root. Raises NotFoundError if there is no such root."""
    if not any(root.id == root_id for root in trust.roots):
        raise NotFoundError(f"there is no root {root_id}")
    return trust.stage(root_id)


def _check_activating(trust: Trust, root_id: str) -> None:
    if trust.stage(root_id) is not Stage.ACTIVATING:
        raise PreconditionError(f"the root {root_id} is not activating")


def _next(trust: Trust, authority_id: str, stage: Stage, now: datetime) -> AuthorityStage:
    return AuthorityStage(authority_id, stage, trust.sequence + 1, now)


def _shown(stage: Stage | None) -> str:
    return "not trusted" if stage is None else stage.value

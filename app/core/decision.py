"""The answer to "may this request pass?", with the reason it was given."""

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """What was decided."""

    ALLOW = "allow"
    DENY = "deny"

    # An enumeration hashes the name of a member, in Python; decisions are hashed on every call.
    __hash__ = object.__hash__


class Watch(Enum):
    """Policies that decide nothing: an AUDIT policy, and a policy's dry run."""

    AUDIT = "audit"
    DRY_RUN_DENY = "dry_run_deny"
    DRY_RUN_ALLOW = "dry_run_allow"


@dataclass(frozen=True, slots=True)
class Observation:
    """What policies that decide nothing found: `result` is `matched` for AUDIT, `allowed` or `denied` for a dry run.

    `policy` and `rule` are those that matched, empty if none did.
    """

    watch: Watch
    result: str
    policy: str = ""
    rule: str = ""

    @property
    def notable(self) -> bool:
        """Whether it is worth a line in a log: an audited request, or one that the policy in dry run would deny."""
        return self.result != "allowed"

    def __str__(self) -> str:
        return f"{self.result} by {self.rule} of {self.policy}" if self.policy else self.result


@dataclass(frozen=True, slots=True)
class Decision:
    """An outcome that carries its reason.

    `reason` is a sentence for people. `policy` is `namespace/name` of the policy that decided, `rule` the path of
    the rule in it (`rules[0]`); both are empty where no policy decided. `observed` is what policies found that decide
    nothing. A denial without a reason cannot be made.
    """

    outcome: Outcome
    reason: str
    policy: str = ""
    rule: str = ""
    observed: tuple[Observation, ...] = ()

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError("a decision carries its reason")

    def __hash__(self) -> int:
        # Decisions are looked up on every call, and hardly two of them have the same reason.
        return hash(self.reason)

    @property
    def allowed(self) -> bool:
        """Whether the request may pass."""
        return self.outcome is Outcome.ALLOW

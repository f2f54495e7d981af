"""The answer to "may this request pass?", with the reason it was given."""

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """What was decided."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Decision:
    """An outcome that carries its reason.

    `reason` is a sentence for people. `policy` is `namespace/name` of the policy that decided, `rule` the path of
    the rule in it (`rules[0]`); both are empty where no policy decided. A denial without a reason cannot be made.
    """

    outcome: Outcome
    reason: str
    policy: str = ""
    rule: str = ""

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError("a decision carries its reason")

    @property
    def allowed(self) -> bool:
        """Whether the request may pass."""
        return self.outcome is Outcome.ALLOW

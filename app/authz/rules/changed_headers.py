"""The headers of a request as its workload gets them, beside those that the client sent."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.authz.model import Headers


@dataclass(frozen=True, slots=True)
class ChangedHeaders:
    """The headers `sent`, of which some have other values, None where they are removed."""

    sent: Headers
    changed: Mapping[str, tuple[str, ...] | None]

    def get(self, name: str, /) -> tuple[str, ...] | None:
        """Return the values of a header, as `Headers` does."""
        return self.changed[name] if name in self.changed else self.sent.get(name)

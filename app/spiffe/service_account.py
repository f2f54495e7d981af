"""Service accounts of Kubernetes clusters, as the API server's review of a token tells them."""

from dataclasses import dataclass
from typing import Protocol

from app.core.errors import UnauthenticatedError
from app.core.net import is_dns_label, is_dns_name

# What the user of a service account's token is called: this, the namespace, a colon, and the name.
SUBJECT_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class BoundPod:
    """The pod that a token is bound to. `node` is where it runs, empty where the API server does not tell."""

    name: str
    uid: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A service account of a cluster, which the settings name; `pod` is None for a token that is bound to none."""

    cluster: str
    namespace: str
    name: str
    pod: BoundPod | None = None

    @property
    def path(self) -> str:
        """The path of its SPIFFE ID, as istiod has it."""
        return f"/ns/{self.namespace}/sa/{self.name}"


class TokenReviewer(Protocol):
    """Knows whose service account's token one is: the API server of a cluster."""

    def known(self, token: str, audiences: tuple[str, ...]) -> ServiceAccount | None:
        """Return whose token it is if that is remembered, None if it has to be reviewed."""

    async def review(self, token: str, audiences: tuple[str, ...]) -> ServiceAccount:
        """Return whose token it is, as the API server said not longer than seconds ago.

        The token must be for one of `audiences`; without any, for the API server itself. Raises UnauthenticatedError
        with the reason if it is refused, UnavailableError if the API server cannot be asked now.
        """


def refused(reason: str, message: str) -> UnauthenticatedError:
    """Return the refusal of a token: `reason` is counted, and `message` says what is wrong with it."""
    return UnauthenticatedError(f"the service account token {message}", reason=f"kubernetes_{reason}")


def parse_path(path: str) -> tuple[str, str] | None:
    """Return namespace and name of the path `/ns/NAMESPACE/sa/NAME`, None for anything else."""
    match path.split("/"):
        case ["", "ns", namespace, "sa", name] if is_dns_label(namespace) and is_dns_name(name):
            return namespace, name
    return None


def parse_subject(subject: object) -> tuple[str, str] | None:
    """Return namespace and name of `system:serviceaccount:NAMESPACE:NAME`, None for anything else."""
    if isinstance(subject, str) and subject.startswith(SUBJECT_PREFIX):
        namespace, _, name = subject.removeprefix(SUBJECT_PREFIX).partition(":")
        if is_dns_label(namespace) and is_dns_name(name):
            return namespace, name
    return None

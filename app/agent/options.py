"""The agent's options: the control plane, the join token, the files, and the users with access."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.agent.identity import JoinToken
from app.core.errors import InvalidInputError, located
from app.core.net import Address, parse_address
from app.spiffe.bundle import MAX_BUNDLE_BYTES, TrustBundle, parse_bundle, trust_domain_of
from app.spiffe.id import TrustDomain
from app.spiffe.x509_svid import pem

TOKEN_VARIABLE = "MESHWARD_JOIN_TOKEN"  # noqa: S105 - the name of a variable, not a token
DEFAULT_PORT = 15012
LOOPBACK = "127.0.0.1"
SOCKET_FILE = "agent.sock"
# The largest user id of Linux; the one above it means no user (setuid(2)).
MAX_UID = 2**32 - 2
# A token is a few dozen characters; a file with more than this holds something else.
MAX_TOKEN_LENGTH = 4096

# The characters that a gRPC metadata value may have without being changed or split.
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Where the join token is, if any: `given` at the start, or in `file`, which may change while the agent runs."""

    given: str | None = field(default=None, repr=False)
    file: Path | None = None

    def read(self) -> JoinToken | None:
        """Return the current token, None if there is none. Raises InvalidInputError if it is malformed."""
        if self.given is not None:
            return _parse_token(self.given, "the join token")
        if self.file is None:
            return None
        try:
            with self.file.open("rb") as file:
                content = file.read(MAX_TOKEN_LENGTH + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidInputError(f"cannot read the join token file {self.file}: {error.strerror}") from error
        return _parse_token(content.decode("utf-8", "replace"), f"the file {self.file}")


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """The agent's options, each checked.

    The server's certificate must have `server_name` and the SPIFFE ID of the control plane in `trust_domain` (if None,
    that of the bundle); it is verified with `trust_bundle` at the first enrolment. `allowed_uids` are the users that
    get the identity; `metrics_bind` is where the metrics are served, if anywhere.
    """

    server: Address
    server_name: str
    trust_bundle: Path
    trust_domain: TrustDomain | None
    data_dir: Path
    socket: Path
    tokens: TokenSource
    allowed_uids: frozenset[int]
    metrics_bind: Address | None


def agent_options(  # noqa: PLR0913 - each command line option is a parameter
    *,
    server: str,
    server_name: str | None,
    trust_bundle: Path,
    trust_domain: str | None,
    join_token: str | None,
    join_token_file: Path | None,
    data_dir: Path,
    socket: Path | None,
    allow_uid: Sequence[int] | None,
    metrics_bind: str | None,
) -> AgentOptions:
    """Return the options of the command line and the environment. Raises InvalidInputError naming the wrong option."""
    for uid in allow_uid or ():
        if not 0 <= uid <= MAX_UID:
            raise InvalidInputError(f"--allow-uid {uid} is not a user id: use 0 to {MAX_UID}")
    with located("--server"):
        address = parse_address(server, default_port=DEFAULT_PORT)
    with located("--trust-domain"):
        domain = None if trust_domain is None else TrustDomain(trust_domain)
    with located("--metrics-bind"):
        metrics = None if metrics_bind is None else _parse_bind(metrics_bind)
    return AgentOptions(
        server=address,
        server_name=server_name or address.host,
        trust_bundle=trust_bundle,
        trust_domain=domain,
        data_dir=data_dir,
        socket=socket or data_dir / SOCKET_FILE,
        tokens=choose_tokens(join_token, join_token_file, os.environ.get(TOKEN_VARIABLE)),
        allowed_uids=frozenset(allow_uid or (os.geteuid(), 0)),
        metrics_bind=metrics,
    )


def choose_tokens(given: str | None, file: Path | None, environment: str | None) -> TokenSource:
    """Return the first of option, file and environment. Raises InvalidInputError if both options are given."""
    if given is not None and file is not None:
        raise InvalidInputError("--join-token and --join-token-file are both given: use one of them")
    if file is not None:
        return TokenSource(file=file)
    return TokenSource(given if given is not None else environment or None)


def read_trust_bundle(path: Path, trust_domain: TrustDomain | None) -> TrustBundle:
    """Return the trust bundle in a file, which is PEM or SPIFFE JSON; its trust domain is that of its roots if None.

    Raises InvalidInputError if the file cannot be read or is not a trust bundle, or its roots have no trust domain.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise InvalidInputError(
            f"cannot read the trust bundle {path}: {error.strerror}; copy bundle.pem from the server's data dir"
        ) from error
    with located(str(path)):
        roots = parse_bundle(content.decode("utf-8", "replace"))
        try:
            domain = trust_domain or trust_domain_of(roots)
        except InvalidInputError as error:
            raise InvalidInputError(f"{error.message}: name it with --trust-domain") from error
    return TrustBundle(domain, tuple(pem(root) for root in roots))


def _parse_bind(text: str) -> Address:
    return parse_address(text if ":" in text else f"{LOOPBACK}:{text}", allow_port_0=True)


def _parse_token(text: str, where: str) -> JoinToken:
    secret = text.strip()
    if len(secret) > MAX_TOKEN_LENGTH or not _TOKEN.fullmatch(secret):
        raise InvalidInputError(
            f"{where} does not hold a join token: it must be one word, as `meshward token create` prints it"
        )
    return JoinToken(secret)

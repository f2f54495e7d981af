"""What the agent is started with."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.agent.tokens import GivenToken, NoToken, TokenFile
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


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """The agent's options, each checked.

    The server's certificate must have `server_name` and the SPIFFE ID of the control plane in `trust_domain` (if None,
    that of the bundle), and `trust_bundle` vouches for it at the first enrolment. `allowed_uids` are the users that get
    the identity; `metrics_bind` is where the metrics are served, if anywhere.
    """

    server: Address
    server_name: str
    trust_bundle: Path
    trust_domain: TrustDomain | None
    data_dir: Path
    socket: Path
    tokens: GivenToken | TokenFile | NoToken
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
    """Return what the command line and the environment say. Raises InvalidInputError, naming the option at fault."""
    for uid in allow_uid or ():
        if not 0 <= uid <= MAX_UID:
            raise InvalidInputError(f"--allow-uid {uid} is not a user id: use 0 to {MAX_UID}")
    with located("--server"):
        address = parse_address(server, default_port=DEFAULT_PORT)
    with located("--trust-domain"):
        domain = None if trust_domain is None else TrustDomain(trust_domain)
    return AgentOptions(
        server=address,
        server_name=server_name or address.host,
        trust_bundle=trust_bundle,
        trust_domain=domain,
        data_dir=data_dir,
        socket=socket or data_dir / SOCKET_FILE,
        tokens=choose_tokens(join_token, join_token_file, os.environ.get(TOKEN_VARIABLE)),
        allowed_uids=frozenset(allow_uid or (os.geteuid(), 0)),
        metrics_bind=parse_metrics_bind(metrics_bind) if metrics_bind is not None else None,
    )


def parse_metrics_bind(text: str) -> Address:
    """Return the address that `host:port` spells, or a port alone, which is of loopback. Raises InvalidInputError."""
    with located("--metrics-bind"):
        return parse_address(text if ":" in text else f"{LOOPBACK}:{text}", allow_port_0=True)


def choose_tokens(given: str | None, file: Path | None, environment: str | None) -> GivenToken | TokenFile | NoToken:
    """Return where the join token comes from: the option, the file or the environment, in this order.

    Raises InvalidInputError if both options are given.
    """
    if given is not None and file is not None:
        raise InvalidInputError("--join-token and --join-token-file are both given: use one of them")
    if given is not None:
        return GivenToken(given)
    if file is not None:
        return TokenFile(file)
    return GivenToken(environment) if environment else NoToken()


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
    try:
        roots = parse_bundle(content.decode("utf-8", "replace"))
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error.message}") from error
    try:
        domain = trust_domain or trust_domain_of(roots)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error.message}: name it with --trust-domain") from error
    return TrustBundle(domain, tuple(pem(root) for root in roots))

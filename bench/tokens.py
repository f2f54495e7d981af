"""What a check with a credential costs beside one without: `python -m bench.tokens [ROUNDS]`.

The server has 1,000 policies, and a RequestAuthentication or a CredentialAuthentication, whose credential is taken out
of the request. JWTs have 0.7 KB and are signed with ES256; opaque tokens are introspected once, by a server in the same
process that knows every token.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from app.authz.rules.api_keys import PREFIX, ApiKey, digest_of
from app.main.parts import Parts
from app.spiffe.principal import Credential, Principal
from bench.calls import check_request

ISSUER = "https://issuer.example.org"
# The same in each process, so that the server knows who signed what it is sent.
KEY = ec.derive_private_key(0x6D657368776172642062656E636820746F6B656E, ec.SECP256R1())
ROUNDS = 31
LIFETIME = 24 * 3600
# As the settings name it.
AUTHORIZATION_SERVER = "idp"
# Credentials of different clients that a server is sent in turn.
MANY = 1_000


def token(number: int) -> str:
    """Return one of many tokens, as long as those of an identity provider."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": f"user-{number:06}",
        "aud": ["https://shop.example.org"],
        "iat": now,
        "exp": now + LIFETIME,
        "email": f"user-{number:06}@example.org",
        "groups": [f"group-{index:03}" for index in range(20)],
    }
    return jwt.encode(claims, KEY, algorithm="ES256", headers={"kid": "bench"})


def token_requests(tokens: int) -> tuple[bytes, ...]:
    """Return a CheckRequest with each of so many tokens."""
    return tuple(check_request({"authorization": f"Bearer {token(number)}"}) for number in range(tokens))


async def load_tokens(parts: Parts) -> None:
    """Have every token verified."""
    key = ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True) | {"kid": "bench"}
    document = {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "tokens", "namespace": "shop"},
        "spec": {"jwtRules": [{"issuer": ISSUER, "jwks": json.dumps({"keys": [key]})}]},
    }
    await parts.authentication.requests.documents.apply(Principal(Credential.ADMIN_TOKEN), [document])


def api_key(number: int) -> str:
    """Return one of many API keys, the same in each process."""
    return f"{PREFIX}{number:043}"


def api_key_requests(keys: int) -> tuple[bytes, ...]:
    """Return a CheckRequest with each of so many API keys."""
    return tuple(check_request({"x-api-key": api_key(number)}) for number in range(keys))


async def load_api_keys(parts: Parts) -> None:
    """Have every API key known."""
    now = datetime.now(UTC)
    digests = [digest_of(api_key(number)) for number in range(MANY)]
    parts.api_keys.restore(
        [
            ApiKey(f"{number:032x}", f"user-{number:06}", "", (), now, None, None, 0, digest)
            for number, digest in enumerate(digests)
            if digest is not None
        ]
    )
    await _apply_credentials(parts, {"apiKey": {}})


def introspected_requests(tokens: int) -> tuple[bytes, ...]:
    """Return a CheckRequest with each of so many opaque tokens."""
    return tuple(check_request({"authorization": f"Bearer opaque-{number:032}"}) for number in range(tokens))


async def load_introspection(parts: Parts) -> None:
    """Have tokens introspected by the authorization server."""
    await _apply_credentials(parts, {"oauth2Introspection": {"authorizationServer": AUTHORIZATION_SERVER}})


@asynccontextmanager
async def authorization_server() -> AsyncIterator[str]:
    """Serve introspection, which finds every token active; yield its URL."""
    answer = json.dumps({"active": True, "iss": ISSUER, "sub": "user", "scope": "read write"})
    response = f"HTTP/1.1 200 OK\r\ncontent-length: {len(answer)}\r\n\r\n{answer}".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                writer.write(response)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/introspect"


async def _apply_credentials(parts: Parts, rule: dict[str, object]) -> None:
    document = {
        "apiVersion": "meshward.io/v1",
        "kind": "CredentialAuthentication",
        "metadata": {"name": "credentials", "namespace": "shop"},
        "spec": {"rules": [rule]},
    }
    await parts.authentication.credentials.documents.apply(Principal(Credential.ADMIN_TOKEN), [document])


def main() -> None:
    """Print the tables."""
    from bench.turns import compare  # noqa: PLC0415 - which has the servers, which have this

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    compare("Check, 1,000 policies", ("no token", "bare", "a token seen before", "1,000 tokens seen before"), rounds)
    for names in (
        ("no API key", "an API key seen before", "1,000 API keys seen before"),
        ("no opaque token", "an introspected token", "1,000 introspected tokens"),
    ):
        compare("Check, 1,000 policies", names, rounds)


if __name__ == "__main__":
    main()

"""What a check with a JWT costs beside one without: `python -m bench.tokens [ROUNDS]`.

The server has 1,000 policies and a RequestAuthentication, whose token is taken out of the request. Tokens have 0.7 KB
and are signed with ES256.
"""

import json
import sys
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from app.main.parts import Parts
from app.spiffe.principal import Credential, Principal
from bench.calls import check_request

ISSUER = "https://issuer.example.org"
# The same in each process, so that the server knows who signed what it is sent.
KEY = ec.derive_private_key(0x6D657368776172642062656E636820746F6B656E, ec.SECP256R1())
ROUNDS = 31
LIFETIME = 24 * 3600


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


def main() -> None:
    """Print the table."""
    from bench.turns import compare  # noqa: PLC0415 - which has the servers, which have this

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    compare("Check, 1,000 policies", ("no token", "bare", "a token seen before", "1,000 tokens seen before"), rounds)


if __name__ == "__main__":
    main()

"""An issuer of JWTs: its keys, what it publishes, good tokens, and tokens that prove nothing."""

import hmac
import json
from base64 import urlsafe_b64encode
from datetime import timedelta

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.example.org"
AUDIENCE = "istio-ca"
SUBJECT = "system:serviceaccount:shop:cart"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
STRANGER = rsa.generate_private_key(65537, 2048)
KEYS = {"rsa": RSA_KEY, "ec": EC_KEY}


def jwk(key, **members):
    """The public part of a key as a JWK."""
    algorithm = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    return algorithm.to_jwk(key.public_key(), as_dict=True) | members


def jwks(keys=None):
    """A JWK Set of keys by their `kid`."""
    return json.dumps({"keys": [jwk(key, kid=name) for name, key in (KEYS if keys is None else keys).items()]}).encode()


def claims(now, **changed):
    """What a good token says; a claim that is changed to None is left out."""
    usual = {
        "iss": ISSUER,
        "sub": SUBJECT,
        "aud": [AUDIENCE],
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(hours=1)).timestamp()),
    }
    return {name: value for name, value in (usual | changed).items() if value is not None}


def token(now, *, key=RSA_KEY, kid="rsa", algorithm="RS256", headers=None, **changed):
    """A signed token; without its `kid` if that is None."""
    named = {"kid": kid} if kid else {}
    return jwt.encode(claims(now, **changed), key, algorithm=algorithm, headers=named | (headers or {}))


def part(value):
    """A part of a token: the JSON of a value, or the bytes that are given."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def spelled(header, payload, signature=b"signature"):
    """A token as it is spelled, with a signature that verifies nothing."""
    return f"{part(header)}.{part(payload)}.{part(signature)}"


def confused(now):
    """An HMAC whose secret is the issuer's public key, as PEM."""
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header, payload = part({"alg": "HS256", "kid": "rsa", "typ": "JWT"}), part(claims(now))
    signed = f"{header}.{payload}"
    return f"{signed}.{part(hmac.digest(pem, signed.encode(), 'sha256'))}"


def hostile(now):
    """Tokens that prove nothing, with the reason that each is refused for."""
    good, header = claims(now), {"alg": "RS256", "kid": "rsa"}
    past, ahead = int(now.timestamp()) - 3600, int(now.timestamp()) + 3600
    head, _, signature = token(now).rpartition(".")
    return {
        "none": (f"{part({'alg': 'none'})}.{part(good)}.", "malformed"),
        "none with a signature": (spelled({"alg": "none", "kid": "rsa"}, good), "algorithm"),
        "None": (spelled({"alg": "None", "kid": "rsa"}, good), "algorithm"),
        "key confusion": (confused(now), "algorithm"),
        "wrong key type": (token(now, key=EC_KEY, kid="rsa", algorithm="ES256"), "key_mismatch"),
        "another key type": (token(now, kid="ec"), "key_mismatch"),
        "a stranger's key": (token(now, key=STRANGER), "signature"),
        "a changed signature": (f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}", "signature"),
        "changed claims": (
            f"{part(header)}.{part(good | {'sub': 'system:serviceaccount:a:b'})}.{signature}",
            "signature",
        ),
        "unknown kid": (token(now, kid="other"), "unknown_key"),
        "a kid that is no text": (spelled({"alg": "RS256", "kid": 7}, good), "malformed"),
        "a long kid": (spelled({"alg": "RS256", "kid": "k" * 257}, good), "malformed"),
        "an issuer that is not trusted": (token(now, iss="https://other.example.org"), "issuer"),
        "no issuer": (token(now, iss=None), "claims"),
        "an issuer that is no text": (spelled(header, good | {"iss": ["x"]}), "claims"),
        "expired": (token(now, exp=past), "expired"),
        "no end": (token(now, exp=None), "claims"),
        "an end that is no number": (token(now, exp=str(ahead)), "claims"),
        "an end that is true": (token(now, exp=True), "claims"),
        "an end that is null": (_null(now, "exp"), "claims"),
        "an endless end": (token(now, exp=float("inf")), "malformed"),
        "not yet": (token(now, nbf=ahead), "not_yet"),
        "issued later": (token(now, iat=ahead), "not_yet"),
        "no audience": (token(now, aud=None), "audience"),
        "an empty audience": (token(now, aud=[]), "audience"),
        "another audience": (token(now, aud="vault"), "audience"),
        "an audience that is no text": (token(now, aud=[7, AUDIENCE]), "audience"),
        "too many audiences": (token(now, aud=[AUDIENCE] * 65), "audience"),
        "no subject": (token(now, sub=None), "subject"),
        "a user": (token(now, sub="admin@example.org"), "subject"),
        "a subject with another part": (token(now, sub=f"{SUBJECT}:x"), "subject"),
        "a subject with a path": (token(now, sub="system:serviceaccount:shop:../../meshward/server"), "subject"),
        "a subject with a slash": (token(now, sub="system:serviceaccount:shop/sa/x:cart"), "subject"),
        "a subject without a name": (token(now, sub="system:serviceaccount:shop:"), "subject"),
        "a subject with a line end": (token(now, sub=f"{SUBJECT}\n"), "subject"),
        "critical headers": (token(now, headers={"crit": ["exp"]}), "malformed"),
        "an unencoded payload": (spelled(header | {"b64": False}, good), "malformed"),
        "another type": (token(now, headers={"typ": "at+jwt"}), "malformed"),
        "no algorithm": (spelled({"kid": "rsa"}, good), "algorithm"),
        "an algorithm that is a list": (spelled({"alg": ["RS256"]}, good), "algorithm"),
        "huge": (spelled(header, good | {"x": "x" * (16 << 10)}), "too_large"),
        "deep": (spelled(header, b"[" * 9000), "malformed"),
        "a deep header": (spelled(b'{"a":' * 2000, good), "malformed"),
        "a name twice": (spelled(b'{"alg":"RS256","alg":"none"}', good), "malformed"),
        "not JSON": (spelled(b'{"alg"', good), "malformed"),
        "not UTF-8": (spelled(header, b'{"iss":"\xff"}'), "malformed"),
        "padding": (spelled(header, good) + "==", "malformed"),
        "no base64": ("eyJ.e+J.x/", "malformed"),
        "a long number": (spelled(header, b'{"iss":"x","exp":' + b"9" * 5000 + b"}"), "malformed"),
    }


def _null(now, name):
    return jwt.encode(claims(now) | {name: None}, RSA_KEY, algorithm="RS256", headers={"kid": "rsa"})

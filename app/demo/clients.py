"""Clients of the demo's mesh: of the admin API, of each Envoy's admin port, and those that send requests."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import random_serial_number

from app.ca.rules.leaf import LeafProfile, UnsignedLeaf
from app.ca.rules.profile import authority_builder
from app.core.errors import NotFoundError
from app.core.private_files import read_private_file, replace_private_file
from app.demo.steps import UnexpectedError
from app.spiffe.id import SpiffeId

REQUEST_SECONDS = 5.0
AUTHORITIES = "/v1/ca/authorities"
# A root is not revoked yet: something was signed by it alone, or the log has to be signed under another one first.
IN_USE = frozenset({httpx.codes.CONFLICT, httpx.codes.SERVICE_UNAVAILABLE})
YAML = {"content-type": "application/yaml"}
# The pause between two requests: one should nearly always be in flight, without loading the machine.
PAUSE_SECONDS = 0.01
# More than Envoy retries at a time by default: those in flight can all be refused together.
CLIENTS = 8
# The first few are enough to explain.
MAX_FAILURES_KEPT = 5
# How long the certificate of an unknown CA is valid, before and after now.
VALIDITY = timedelta(hours=1)


def http_client() -> httpx.AsyncClient:
    """Return a client for this machine's ports that ignores proxies in the environment."""
    return httpx.AsyncClient(timeout=REQUEST_SECONDS, trust_env=False)


@dataclass(frozen=True, slots=True)
class AdminApi:
    """The admin API of the control plane at `url`; the token is read from its file for each request."""

    client: httpx.AsyncClient
    url: str
    token_file: Path

    async def ready(self) -> bool:
        """Return whether the control plane is ready and accepts our token: another one may have its port."""
        try:
            await self._ask("GET", "/readyz")
            await self._ask("GET", "/v1/ca")
        except (httpx.TransportError, NotFoundError, UnexpectedError):
            return False
        return True

    async def set_entry(self, spiffe_id: SpiffeId, x509_svid_ttl_seconds: int) -> None:
        """Set the lifetime of SVIDs of `spiffe_id` from the next one on."""
        found = await self._ask("GET", "/v1/entries", params={"spiffe_id": str(spiffe_id)})
        entry = {"spiffe_id": str(spiffe_id), "x509_svid_ttl_seconds": x509_svid_ttl_seconds}
        items = found.json()["items"]
        if items:
            await self._ask("PUT", f"/v1/entries/{items[0]['id']}", json=entry)
        else:
            await self._ask("POST", "/v1/entries", json=entry)

    async def create_join_token(self, spiffe_id: SpiffeId) -> str:
        """Return the secret of a new join token for `spiffe_id`."""
        answer = await self._ask("POST", "/v1/join-tokens", json={"spiffe_id": str(spiffe_id)})
        token: str = answer.json()["token"]
        return token

    async def has_issued(self, spiffe_id: SpiffeId) -> bool:
        """Return whether an SVID of `spiffe_id` was issued for a join token."""
        answer = await self._ask("GET", "/v1/svids", params={"spiffe_id": str(spiffe_id)})
        return any(svid["join_token_id"] for svid in answer.json()["items"])

    async def apply_policies(self, documents: str) -> None:
        """Apply the AuthorizationPolicy documents, YAML, all or none."""
        await self._ask("POST", "/v1/policies", content=documents, headers=YAML)

    async def delete_policy(self, namespace: str, name: str) -> None:
        """Delete one policy."""
        await self._ask("DELETE", f"/v1/policies/{namespace}/{name}")

    async def put_quota(self, domain: str, document: str) -> None:
        """Put the limits of `domain`, YAML."""
        await self._ask("PUT", f"/v1/quota/configs/{domain}", content=document, headers=YAML)

    async def ban(self, spiffe_id: SpiffeId, reason: str) -> None:
        """Ban an identity."""
        await self._ask("PUT", f"/v1/identities/{spiffe_id}/ban", json={"reason": reason})

    async def unban(self, spiffe_id: SpiffeId) -> None:
        """Lift the ban of an identity."""
        await self._ask("DELETE", f"/v1/identities/{spiffe_id}/ban")

    async def roots(self, stage: str) -> list[str]:
        """Return the ids of the roots of the CA that are at a stage."""
        answer = await self._ask("GET", AUTHORITIES)
        return [root["id"] for root in answer.json()["roots"] if root["stage"] == stage]

    async def prepare_root(self) -> str:
        """Create a root that is trusted and does not sign yet, and return its id."""
        prepared: str = (await self._ask("POST", AUTHORITIES)).json()["id"]
        return prepared

    async def activate_root(self, root: str) -> None:
        """Have a root sign as soon as every sidecar trusts it."""
        await self._ask("POST", f"{AUTHORITIES}/{root}/activate")

    async def taint_root(self, root: str) -> None:
        """Have everything that a root has signed be replaced."""
        await self._ask("POST", f"{AUTHORITIES}/{root}/taint")

    async def revoke_root(self, root: str) -> bool:
        """Take a root out of the trust bundle; return False if it is still in use."""
        url = f"{self.url}{AUTHORITIES}/{root}/revoke"
        answer = await self.client.request("POST", url, auth=self._authenticated)
        if answer.status_code in IN_USE:
            return False
        if not answer.is_success:
            raise UnexpectedError("the old root to be revoked", _described(answer), "control-plane")
        return True

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        answer = await self.client.request(method, self.url + path, auth=self._authenticated, **request)
        if not answer.is_success:
            raise UnexpectedError(f"{method} {path} to succeed", _described(answer), "control-plane")
        return answer

    def _authenticated(self, request: httpx.Request) -> httpx.Request:
        request.headers["authorization"] = f"Bearer {read_private_file(self.token_file).decode('ascii').strip()}"
        return request


@dataclass(frozen=True, slots=True)
class HeldCertificate:
    """A certificate that an Envoy holds, as its admin port shows it."""

    serial: str
    uris: tuple[str, ...]
    expires: datetime


@dataclass(frozen=True, slots=True)
class EnvoyAdmin:
    """The admin port of the Envoy at `url`."""

    client: httpx.AsyncClient
    url: str

    async def ready(self, bootstrap: Path) -> bool:
        """Return whether the Envoy that was started with `bootstrap` has its certificates and takes connections."""
        try:
            answer = await self.client.get(f"{self.url}/server_info")
        except httpx.TransportError:
            return False
        if not answer.is_success:
            return False
        info = answer.json()
        return bool(info["state"] == "LIVE" and info["command_line_options"]["config_path"] == str(bootstrap))

    async def certificates(self) -> tuple[HeldCertificate, ...]:
        """Return the certificates, each once, that Envoy presents to its peers."""
        answer = await self.client.get(f"{self.url}/certs")
        chains = [chain for each in answer.json()["certificates"] for chain in each.get("cert_chain", ())]
        return tuple(dict.fromkeys(_held(chain) for chain in chains))

    async def roots(self) -> int:
        """Return how many roots it trusts for its peers."""
        answer = await self.client.get(f"{self.url}/certs")
        names = [each["ca_cert"] for each in answer.json()["certificates"] if each.get("ca_cert")]
        serials = {root["serial_number"] for roots in names for root in roots}
        return len(serials)

    async def has_revocation_lists(self) -> bool:
        """Return whether it refuses new connections by revocation lists."""
        answer = await self.client.get(f"{self.url}/config_dump", params={"resource": "dynamic_active_secrets"})
        secrets = [each["secret"] for each in answer.json().get("configs", ())]
        return any("crl" in each.get("validation_context", {}) for each in secrets)

    async def handshakes(self) -> int:
        """Return how many TLS handshakes its listeners have completed so far."""
        answer = await self.client.get(f"{self.url}/stats", params={"filter": r"^listener\..*\.ssl\.handshake$"})
        return sum(int(line.rpartition(":")[2]) for line in answer.text.splitlines())


def _described(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.text}"


def _held(chain: dict[str, Any]) -> HeldCertificate:
    uris = tuple(name["uri"] for name in chain.get("subject_alt_names", ()) if "uri" in name)
    return HeldCertificate(chain["serial_number"], uris, datetime.fromisoformat(chain["expiration_time"]))


@dataclass(slots=True)
class Tally:
    """How many requests were sent, how many failed, and the first failures."""

    sent: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def note(self, problem: str | None) -> None:
        """Count a request that ended; `problem` is None if it succeeded."""
        self.sent += 1
        if problem is None:
            return
        self.failed += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(problem)


@asynccontextmanager
async def steady_load(client: httpx.AsyncClient, url: str) -> AsyncIterator[Tally]:
    """Request `url` repeatedly, with CLIENTS clients, for the length of the block; any answer but 200 is a failure.

    Requests in flight at its end are not counted. Raises the exception that ended a client early, if there was one: a
    client that sends nothing sees no failure.
    """
    tally = Tally()
    tasks = [asyncio.create_task(_request_repeatedly(client, url, tally)) for _ in range(CLIENTS)]
    try:
        yield tally
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


async def _request_repeatedly(client: httpx.AsyncClient, url: str, tally: Tally) -> None:
    while True:
        try:
            answer = await client.get(url)
            good = answer.status_code == httpx.codes.OK
            tally.note(None if good else f"status {answer.status_code}: {answer.text[:200]}")
        except httpx.HTTPError as error:
            tally.note(str(error) or type(error).__name__)
        await asyncio.sleep(PAUSE_SECONDS)


def unknown_ca_pem(claimed: SpiffeId, now: datetime) -> bytes:
    """Return a key, an SVID for `claimed` and the root of an unknown CA as PEM; only its signer is wrong."""
    root_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    lifetime = (now - VALIDITY, now + VALIDITY)
    root = authority_builder(claimed.trust_domain, root_key.public_key(), random_serial_number(), lifetime, None)
    issuer = root.sign(root_key, hashes.SHA256())
    profile = LeafProfile(claimed, leaf_key.public_key(), random_serial_number(), *lifetime)
    leaf = UnsignedLeaf(profile, issuer).sign(root_key, hashes.SHA256())
    key = leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key + leaf.pem.encode() + issuer.public_bytes(Encoding.PEM)


def tls_client(pem: bytes, file: Path, bundle: Path) -> ssl.SSLContext:
    """Return a TLS client with the certificate in `pem`, written to `file`, that trusts the mesh's `bundle`."""
    replace_private_file(file, pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # an SVID names its owner in a URI
    context.load_verify_locations(bundle)
    context.load_cert_chain(file)
    return context

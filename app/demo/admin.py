"""Clients of the control plane's admin API and of each Envoy's admin port."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from app.core.errors import NotFoundError
from app.core.net import Address
from app.core.private_files import read_private_file
from app.demo.steps import UnexpectedError
from app.spiffe.id import SpiffeId

REQUEST_SECONDS = 5.0
YAML = {"content-type": "application/yaml"}


class AdminApi:
    """The admin API of the control plane at `address`; the token is read from its file when it is first needed."""

    def __init__(self, client: httpx.AsyncClient, address: Address, token_file: Path) -> None:
        self._client = client
        self._url = address.url
        self._token_file = token_file

    async def ready(self) -> bool:
        """Return whether the control plane is ready and accepts our token: another one may have its port."""
        try:
            answer = await self._client.get(f"{self._url}/readyz")
            return answer.is_success and (await self._ask("GET", "/v1/ca")).is_success
        except (httpx.TransportError, NotFoundError):
            return False

    async def set_entry(self, spiffe_id: SpiffeId, x509_svid_ttl_seconds: int) -> None:
        """Set the lifetime of SVIDs of `spiffe_id` from the next one on."""
        found = await self._call("GET", "/v1/entries", params={"spiffe_id": str(spiffe_id)})
        entry = {"spiffe_id": str(spiffe_id), "x509_svid_ttl_seconds": x509_svid_ttl_seconds}
        items = found.json()["items"]
        if items:
            await self._call("PUT", f"/v1/entries/{items[0]['id']}", json=entry)
        else:
            await self._call("POST", "/v1/entries", json=entry)

    async def create_join_token(self, spiffe_id: SpiffeId) -> str:
        """Return the secret of a new join token for `spiffe_id`."""
        answer = await self._call("POST", "/v1/join-tokens", json={"spiffe_id": str(spiffe_id)})
        token: str = answer.json()["token"]
        return token

    async def has_issued(self, spiffe_id: SpiffeId) -> bool:
        """Return whether an SVID of `spiffe_id` was issued for a join token."""
        answer = await self._call("GET", "/v1/svids", params={"spiffe_id": str(spiffe_id)})
        return any(svid["join_token_id"] for svid in answer.json()["items"])

    async def apply_policies(self, documents: str) -> None:
        """Apply the AuthorizationPolicy documents, YAML, all or none."""
        await self._call("POST", "/v1/policies", content=documents, headers=YAML)

    async def delete_policy(self, namespace: str, name: str) -> None:
        """Delete one policy."""
        await self._call("DELETE", f"/v1/policies/{namespace}/{name}")

    async def put_quota(self, domain: str, document: str) -> None:
        """Put the limits of `domain`, YAML."""
        await self._call("PUT", f"/v1/quota/configs/{domain}", content=document, headers=YAML)

    async def _call(self, method: str, path: str, **request: Any) -> httpx.Response:
        answer = await self._ask(method, path, **request)
        if not answer.is_success:
            raise UnexpectedError(f"{method} {path} to succeed", f"{answer.status_code} {answer.text}", "control-plane")
        return answer

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        return await self._client.request(method, self._url + path, auth=self._authenticated, **request)

    def _authenticated(self, request: httpx.Request) -> httpx.Request:
        request.headers["authorization"] = f"Bearer {read_private_file(self._token_file).decode('ascii').strip()}"
        return request


@dataclass(frozen=True, slots=True)
class HeldCertificate:
    """A certificate that an Envoy holds, as its admin port shows it."""

    serial: str
    uris: tuple[str, ...]
    expires: datetime


class EnvoyAdmin:
    """The admin port of the Envoy at `address`."""

    def __init__(self, client: httpx.AsyncClient, address: Address) -> None:
        self._client = client
        self._url = address.url

    async def ready(self, bootstrap: Path) -> bool:
        """Return whether every listener has its certificate and accepts connections.

        It must be the Envoy that was started with the file `bootstrap`: another one may have its port.
        """
        try:
            answer = await self._client.get(f"{self._url}/server_info")
        except httpx.TransportError:
            return False
        if not answer.is_success:
            return False
        info = answer.json()
        return bool(info["state"] == "LIVE" and info["command_line_options"]["config_path"] == str(bootstrap))

    async def certificates(self) -> tuple[HeldCertificate, ...]:
        """Return the certificates, each once, that Envoy presents to its peers."""
        answer = await self._client.get(f"{self._url}/certs")
        chains = [chain for each in answer.json()["certificates"] for chain in each.get("cert_chain", ())]
        return tuple(dict.fromkeys(_held(chain) for chain in chains))

    async def handshakes(self) -> int:
        """Return how many TLS handshakes its listeners have completed so far."""
        answer = await self._client.get(f"{self._url}/stats", params={"filter": r"^listener\..*\.ssl\.handshake$"})
        return sum(int(line.rpartition(":")[2]) for line in answer.text.splitlines())


def _held(chain: dict[str, Any]) -> HeldCertificate:
    uris = tuple(name["uri"] for name in chain.get("subject_alt_names", ()) if "uri" in name)
    return HeldCertificate(chain["serial_number"], uris, datetime.fromisoformat(chain["expiration_time"]))

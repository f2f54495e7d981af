"""The demo's mesh: its addresses, files and command lines, and its processes."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

import app
from app.core.clock import Clock
from app.core.net import Address
from app.core.private_files import replace_private_file
from app.demo.children import Children
from app.demo.clients import AdminApi, EnvoyAdmin
from app.demo.documents import QUOTA_DOMAIN
from app.envoy.bootstrap import bootstrap_json
from app.envoy.sidecar import ControlPlane, Inbound, Outbound, Protocol, Sidecar
from app.spiffe.id import SpiffeId, TrustDomain

TRUST_DOMAIN = TrustDomain("cluster.local")
WEB = SpiffeId(TRUST_DOMAIN, "/ns/demo/sa/web")
API = SpiffeId(TRUST_DOMAIN, "/ns/demo/sa/api")
IDENTITIES: Mapping[str, SpiffeId] = {"web": WEB, "api": API}

CONTROL_PLANE = "control-plane"
# The DNS name in the control plane's certificate that agents and sidecars of the demo use.
CONTROL_PLANE_NAME = "localhost"
# Frequent handshakes: a new certificate is soon in use, and no connection outlives its certificate.
SHORT_CONNECTION_SECONDS = 1.0
# How often to look whether a condition holds.
LOOK_AGAIN_SECONDS = 0.05

USUAL_PORTS: Mapping[str, int] = {
    "mesh_plaintext": 15010,
    "mesh_tls": 15012,
    "admin": 15014,
    "web": 8080,
    "api": 8081,
    "web_outbound": 15001,
    "web_outbound_http_check": 15002,
    "web_envoy": 15000,
    "api_inbound": 15006,
    "api_inbound_http_check": 15007,
    "api_envoy": 15020,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """One demo: the directory that holds all it writes, the address of every listener, and the Envoy binary."""

    directory: Path
    addresses: Mapping[str, Address]
    envoy: Path

    @property
    def data_dir(self) -> Path:
        """The control plane's data directory."""
        return self.directory / "control-plane"

    @property
    def admin_token(self) -> Path:
        """The file that holds the admin token."""
        return self.data_dir / "admin.token"

    @property
    def close_news_file(self) -> Path:
        """The policy that the user may apply."""
        return self.directory / "close-news.yaml"

    @property
    def curl_file(self) -> Path:
        """The file for `curl -K` with the admin token, so that it is on no command line."""
        return self.directory / "admin.curl"

    def socket(self, workload: str) -> Path:
        """Return the Unix socket of the agent of `workload`."""
        return self.directory / f"{workload}.sock"

    def token_file(self, workload: str) -> Path:
        """Return the file with the join token for the agent of `workload`."""
        return self.directory / f"{workload}.token"

    def control_plane_environment(self) -> dict[str, str]:
        """Return the control plane's environment: the user's, with the demo's settings in place of the user's own."""
        return environment() | {
            "MESHWARD_DATA_DIR": str(self.data_dir),
            "MESHWARD_TRUST_DOMAIN": str(TRUST_DOMAIN),
            "MESHWARD_MESH_PLAINTEXT_BIND": str(self.addresses["mesh_plaintext"]),
            "MESHWARD_MESH_TLS_BIND": str(self.addresses["mesh_tls"]),
            "MESHWARD_ADMIN_BIND": str(self.addresses["admin"]),
            "MESHWARD_AUTHZ_EXPOSE_DECISION": "true",
            "MESHWARD_AUTHZ_TRUST_FORWARDED_CLIENT_CERT": "true",
            "MESHWARD_QUOTA_HEADERS": "draft03,ietf",
            "MESHWARD_LOG_FORMAT": "console",
        }

    def agent_command(self, workload: str, *, instance: str = "") -> tuple[str, ...]:
        """Return the command line of the agent of `workload`; another `instance` has a socket and data of its own."""
        name = workload + instance
        return _module(
            *("app.cli", "agent"),
            *("--server", str(self.addresses["mesh_tls"])),
            *("--server-name", CONTROL_PLANE_NAME),
            *("--trust-bundle", str(self.data_dir / "bundle.pem")),
            *("--join-token-file", str(self.token_file(workload))),
            *("--data-dir", str(self.directory / f"{name}-agent")),
            *("--socket", str(self.socket(name))),
        )

    def sidecar(self, workload: str) -> Sidecar:
        """Return the sidecar of `workload`: that of web has outbound listeners, that of api the inbound ones."""
        at = self.addresses
        inbound: tuple[Inbound, ...] = ()
        outbound: tuple[Outbound, ...] = ()
        for name, check in (("", Protocol.GRPC), ("_http_check", Protocol.HTTP)):
            listen, peer = at[f"web_outbound{name}"], at[f"api_inbound{name}"]
            if workload == "api":
                inbound += (Inbound(f"inbound{name}", peer, at["api"], check),)
            else:
                outbound += (Outbound(f"outbound{name}", listen, peer, API, SHORT_CONNECTION_SECONDS),)
        return Sidecar(
            spiffe_id=IDENTITIES[workload],
            admin=at[f"{workload}_envoy"],
            sds_socket=str(self.socket(workload)),
            control_plane=ControlPlane(at["mesh_tls"], CONTROL_PLANE_NAME, SHORT_CONNECTION_SECONDS),
            inbound=inbound,
            outbound=outbound,
            quota_domain=QUOTA_DOMAIN,
            labels={"app": workload},
        )


@dataclass(slots=True)
class Mesh:
    """The running mesh of one demo."""

    plan: Plan
    children: Children
    client: httpx.AsyncClient
    clock: Clock

    @property
    def admin(self) -> AdminApi:
        """The control plane's admin API."""
        return AdminApi(self.client, self.plan.addresses["admin"].url, self.plan.admin_token)

    def envoy(self, workload: str) -> EnvoyAdmin:
        """Return the admin port of the sidecar of `workload`."""
        return EnvoyAdmin(self.client, self.plan.addresses[f"{workload}_envoy"].url)

    async def start_control_plane(self) -> None:
        """Start the control plane and wait until it is ready."""
        await self.children.start(CONTROL_PLANE, _module("app.cli", "serve"), self.plan.control_plane_environment())
        await until(self.admin.ready)

    async def start_workload(self, workload: str) -> None:
        """Start the workload and wait until it answers; web, which calls api, answers with an error at first."""
        at = self.plan.addresses
        through = ("--through", at["web_outbound"].url) if workload == "web" else ()
        command = _module("app.demo.echo", workload, str(at[workload].port), *through)
        await self.children.start(workload, command, environment())

        async def answering() -> bool:
            try:
                await self.client.get(at[workload].url)
            except httpx.TransportError:
                return False
            return True

        await until(answering)

    async def start_agent(self, workload: str, join_token: str) -> None:
        """Start the agent of `workload` with its join token and wait until it serves its socket."""
        replace_private_file(self.plan.token_file(workload), join_token.encode())
        await self.children.start(agent(workload), self.plan.agent_command(workload), environment())

        async def serving() -> bool:
            return self.plan.socket(workload).is_socket()

        await until(serving)

    async def start_sidecar(self, workload: str) -> None:
        """Start the sidecar of `workload` and wait until it has its certificates and accepts connections."""
        file = self.plan.directory / f"{workload}-envoy.json"
        file.write_text(bootstrap_json(self.plan.sidecar(workload)), encoding="utf-8")
        options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
        await self.children.start(sidecar(workload), (str(self.plan.envoy), "-c", str(file), *options), os.environ)
        await until(partial(self.envoy(workload).ready, file))

    async def stop(self, name: str) -> None:
        """Stop the process `name` alone."""
        await self.children.stop(self.children[name])


def agent(workload: str) -> str:
    """Return the name of the process that is the agent of `workload`."""
    return f"{workload}-agent"


def sidecar(workload: str) -> str:
    """Return the name of the process that is the sidecar of `workload`."""
    return f"{workload}-envoy"


def environment() -> dict[str, str]:
    """Return the user's environment without settings of Meshward, in which `python -m app…` finds this code."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MESHWARD_")}
    code = str(Path(app.__file__).parent.parent)
    inherited = kept.get("PYTHONPATH")
    return kept | {"PYTHONPATH": f"{code}{os.pathsep}{inherited}" if inherited else code, "PYTHONUNBUFFERED": "1"}


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return once `holds` does. The caller bounds the time."""
    while True:
        if await holds():
            return
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


def _module(*arguments: str) -> tuple[str, ...]:
    """Return the command that runs a module of this code, installed or not."""
    return (sys.executable, "-m", *arguments)

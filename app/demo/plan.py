"""The layout of the demo's mesh: its workloads, addresses, files and command lines."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import app
from app.core.net import Address
from app.demo.documents import QUOTA_DOMAIN
from app.envoy.sidecar import ControlPlane, Inbound, Outbound, Protocol, Sidecar
from app.spiffe.id import SpiffeId, TrustDomain

TRUST_DOMAIN = TrustDomain("cluster.local")
WEB = SpiffeId(TRUST_DOMAIN, "/ns/demo/sa/web")
API = SpiffeId(TRUST_DOMAIN, "/ns/demo/sa/api")

# The DNS name in the control plane's certificate that agents and sidecars of the demo use.
CONTROL_PLANE_NAME = "localhost"
# Frequent handshakes: a new certificate is soon in use, and no connection outlives its certificate.
SHORT_CONNECTION_SECONDS = 1.0

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
    def logs(self) -> Path:
        """The directory that takes what the processes print."""
        return self.directory / "logs"

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

    def bootstrap_file(self, workload: str) -> Path:
        """Return the file that holds the bootstrap of the sidecar of `workload`."""
        return self.directory / f"{workload}-envoy.json"

    def control_plane_environment(self) -> dict[str, str]:
        """Return the control plane's environment: the user's, with the demo's settings in place of the user's own."""
        return environment() | {
            "MESHWARD_DATA_DIR": str(self.data_dir),
            "MESHWARD_TRUST_DOMAIN": str(TRUST_DOMAIN),
            "MESHWARD_MESH_PLAINTEXT_BIND": str(self.addresses["mesh_plaintext"]),
            "MESHWARD_MESH_TLS_BIND": str(self.addresses["mesh_tls"]),
            "MESHWARD_ADMIN_BIND": str(self.addresses["admin"]),
            "MESHWARD_MESH_REFLECTION": "true",
            "MESHWARD_AUTHZ_EXPOSE_DECISION": "true",
            "MESHWARD_AUTHZ_TRUST_FORWARDED_CLIENT_CERT": "true",
            "MESHWARD_QUOTA_HEADERS": "both",
            "MESHWARD_LOG_FORMAT": "console",
        }

    def control_plane_command(self) -> tuple[str, ...]:
        """Return the command line of the control plane."""
        return (*meshward(), "serve")

    def agent_command(self, workload: str, *, instance: str = "") -> tuple[str, ...]:
        """Return the command line of the agent of `workload`; another `instance` has a socket and data of its own."""
        name = workload + instance
        return (
            *(*meshward(), "agent"),
            *("--server", str(self.addresses["mesh_tls"])),
            *("--server-name", CONTROL_PLANE_NAME),
            *("--trust-bundle", str(self.data_dir / "bundle.pem")),
            *("--join-token-file", str(self.token_file(workload))),
            *("--data-dir", str(self.directory / f"{name}-agent")),
            *("--socket", str(self.socket(name))),
        )

    def sidecar_command(self, workload: str) -> tuple[str, ...]:
        """Return the command line of the sidecar of `workload`."""
        options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
        return (str(self.envoy), "-c", str(self.bootstrap_file(workload)), *options)

    def workload_command(self, workload: str) -> tuple[str, ...]:
        """Return the command line of `workload` itself: web calls api through its sidecar, api echoes."""
        through = ("--through", self.addresses["web_outbound"].url) if workload == "web" else ()
        return (sys.executable, "-m", "app.demo.echo", workload, str(self.addresses[workload].port), *through)

    def sidecar(self, workload: str) -> Sidecar:
        """Return the sidecar of `workload`."""
        at = self.addresses
        inbound = (
            Inbound("inbound", at["api_inbound"], at["api"]),
            Inbound("inbound-http-check", at["api_inbound_http_check"], at["api"], Protocol.HTTP),
        )
        outbound = (
            Outbound("outbound", at["web_outbound"], at["api_inbound"], API, SHORT_CONNECTION_SECONDS),
            Outbound(
                "outbound-http-check",
                at["web_outbound_http_check"],
                at["api_inbound_http_check"],
                API,
                SHORT_CONNECTION_SECONDS,
            ),
        )
        return Sidecar(
            spiffe_id=WEB if workload == "web" else API,
            admin=at[f"{workload}_envoy"],
            sds_socket=str(self.socket(workload)),
            control_plane=ControlPlane(at["mesh_tls"], CONTROL_PLANE_NAME, SHORT_CONNECTION_SECONDS),
            inbound=inbound if workload == "api" else (),
            outbound=outbound if workload == "web" else (),
            quota_domain=QUOTA_DOMAIN,
            labels={"app": workload},
        )


def meshward() -> tuple[str, ...]:
    """Return the command of this Meshward, installed or not."""
    return (sys.executable, "-m", "app.cli")


def environment() -> dict[str, str]:
    """Return the user's environment without settings of Meshward, in which `python -m app…` finds this code."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MESHWARD_")}
    code = str(Path(app.__file__).parent.parent)
    inherited = kept.get("PYTHONPATH")
    return kept | {"PYTHONPATH": f"{code}{os.pathsep}{inherited}" if inherited else code, "PYTHONUNBUFFERED": "1"}

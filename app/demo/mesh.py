"""The demo's mesh: its processes, and clients of their ports."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import httpx

from app.core.private_files import replace_private_file
from app.demo.admin import REQUEST_SECONDS, AdminApi, EnvoyAdmin
from app.demo.children import Children
from app.demo.plan import Plan, environment
from app.envoy.bootstrap import bootstrap_json

CONTROL_PLANE = "control-plane"
WORKLOADS = ("web", "api")
# How often to look whether a condition holds.
LOOK_AGAIN_SECONDS = 0.05


@dataclass(slots=True)
class Mesh:
    """The running mesh of one demo."""

    plan: Plan
    children: Children
    client: httpx.AsyncClient

    @property
    def admin(self) -> AdminApi:
        """The control plane's admin API."""
        return AdminApi(self.client, self.plan.addresses["admin"], self.plan.admin_token)

    def envoy(self, workload: str) -> EnvoyAdmin:
        """Return the admin port of the sidecar of `workload`."""
        return EnvoyAdmin(self.client, self.plan.addresses[f"{workload}_envoy"])

    async def start_control_plane(self) -> None:
        """Start the control plane and wait until it is ready."""
        command, settings = self.plan.control_plane_command(), self.plan.control_plane_environment()
        await self.children.start(CONTROL_PLANE, command, settings)
        await until(self.admin.ready)

    async def start_workload(self, workload: str) -> None:
        """Start the workload itself and wait until it answers; web does with an error as long as api does not."""
        await self.children.start(workload, self.plan.workload_command(workload), environment())

        async def answering() -> bool:
            try:
                await self.client.get(self.plan.addresses[workload].url)
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
        self.plan.bootstrap_file(workload).write_text(bootstrap_json(self.plan.sidecar(workload)), encoding="utf-8")
        await self.children.start(sidecar(workload), self.plan.sidecar_command(workload), os.environ)
        await until(partial(self.envoy(workload).ready, self.plan.bootstrap_file(workload)))

    async def stop_control_plane(self) -> None:
        """Stop the control plane alone."""
        await self.children.stop(self.children[CONTROL_PLANE])

    async def restart_sidecar(self, workload: str) -> None:
        """Stop the sidecar of `workload` and start it again, with nothing in memory."""
        await self.children.stop(self.children[sidecar(workload)])
        await self.start_sidecar(workload)


def agent(workload: str) -> str:
    """Return the name of the process that is the agent of `workload`."""
    return f"{workload}-agent"


def sidecar(workload: str) -> str:
    """Return the name of the process that is the sidecar of `workload`."""
    return f"{workload}-envoy"


def http_client() -> httpx.AsyncClient:
    """Return a client for this machine's ports that ignores proxies in the environment."""
    return httpx.AsyncClient(timeout=REQUEST_SECONDS, trust_env=False)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return once `holds` does. The caller bounds the time."""
    while True:
        if await holds():
            return
        await asyncio.sleep(LOOK_AGAIN_SECONDS)

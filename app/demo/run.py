"""`meshward demo`: start the mesh, run the steps, stay up with a guide unless `--check` is given, and clean up."""

import asyncio
import io
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.core.clock import Clock, SystemClock
from app.core.net import Address
from app.core.private_files import read_private_file, replace_private_file
from app.core.process import until_signal
from app.demo.children import Children
from app.demo.clients import http_client
from app.demo.documents import CLOSE_NEWS, REQUESTS_PER_MINUTE
from app.demo.mesh import API, USUAL_PORTS, WEB, Mesh, Plan
from app.demo.place import choose_addresses, envoy_binary, make_directory
from app.demo.steps import Failure, Screen, Step, run_steps, screen_on
from app.demo.story import steps

# How often to start again with other ports, if another process takes one between its choice and its use.
ATTEMPTS = 3
# A shell's convention: 128 and the number of the signal that ended the command.
SIGNAL_EXIT = 128

_PORT_TAKEN = re.compile(r"address already in use|port \d+ on \S+ is in use", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Demo:
    """One run of the demo. With `check` it ends after the last step."""

    check: bool
    envoy: Path
    clock: Clock
    screen: Screen

    async def run(self) -> int:
        """Run the demo and return its exit code: 0 only if every step saw what it should."""
        # A process that took one of the usual ports may be about to take the others: these are not tried again.
        for ports in (USUAL_PORTS, *(ATTEMPTS - 1) * (dict.fromkeys(USUAL_PORTS, 0),)):
            failure = await self._attempt(choose_addresses(ports))
            if failure is None:
                return 0
            if not port_taken(failure):
                return 1
            self.screen.line("  another process took a port: starting again with other ports")
        return 1

    async def _attempt(self, addresses: Mapping[str, Address]) -> Failure | None:
        directory = make_directory()
        try:
            async with Children(directory / "logs") as children, http_client() as client:
                return await self._run_steps(Mesh(Plan(directory, addresses, self.envoy), children, client, self.clock))
        finally:
            shutil.rmtree(directory)

    async def _run_steps(self, mesh: Mesh) -> Failure | None:
        todo = steps(mesh)
        started = self.clock.monotonic()
        self.screen.line(f"A mesh of two workloads with real Envoy sidecars, in {mesh.plan.directory}\n")
        failure = await run_steps(todo, mesh.children, self.clock, self.screen)
        if failure is None:
            self.screen.line(f"\n{len(todo)} of {len(todo)} steps passed in {self.clock.monotonic() - started:.0f} s")
        if failure or self.check:
            return failure
        mesh.plan.close_news_file.write_text(CLOSE_NEWS, encoding="utf-8")
        token = read_private_file(mesh.plan.admin_token).decode().strip()
        replace_private_file(mesh.plan.curl_file, curl_configuration(token).encode())
        self.screen.line(guide(mesh.plan))
        return await self._stay(mesh.children)

    async def _stay(self, children: Children) -> Failure | None:
        """Stay up until a signal cancels this. Return the failure if a process ends before."""
        forever = Step("the mesh stays up", asyncio.get_running_loop().create_future, seconds=None)
        return await run_steps((forever,), children, self.clock, self.screen)


def run(*, check: bool) -> int:
    """Run the demo on this process's output, return the exit code. Raises PreconditionError without Envoy or room."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # logs may not fit this terminal's encoding
    demo = Demo(check, envoy_binary(), SystemClock(), screen_on(sys.stdout))
    try:
        return asyncio.run(_until_signal(demo))
    except BrokenPipeError:
        # The reader of the output has gone; Python must not try to write the rest of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGNAL_EXIT + signal.SIGPIPE


async def _until_signal(demo: Demo) -> int:
    def stop(number: signal.Signals) -> None:
        demo.screen.line(f"\n{number.name}: stopping everything")

    ended = await until_signal(demo.run(), stop, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # Without --check a signal is how the demo ends; a check that is interrupted has not seen everything.
    return ended if not isinstance(ended, signal.Signals) else SIGNAL_EXIT + ended if demo.check else 0


def port_taken(failure: Failure) -> bool:
    """Return whether a process ended because another one has its port."""
    return any(_PORT_TAKEN.search(line) for _, tail in failure.logs for line in tail)


def curl_configuration(admin_token: str) -> str:
    """Return a configuration for `curl -K` with the admin token and the content type of YAML."""
    return f'header = "authorization: Bearer {admin_token}"\nheader = "content-type: application/yaml"\n'


def guide(plan: Plan) -> str:
    """Return the text for `plan`: addresses, identities and commands for a second terminal."""
    at = plan.addresses
    web, admin = at["web"].url, at["admin"].url
    as_admin = f"curl -K {plan.curl_file}"
    several = (
        f"for i in $(seq {REQUESTS_PER_MINUTE + 1}); do curl -s -o /dev/null -w '%{{http_code}} ' {web}/limited; done"
    )
    return f"""
The mesh is up.   curl → web → web's Envoy ═ mTLS ═ api's Envoy → api

  web             {web}   {WEB}
                  its Envoy: {at["web_outbound"]}, admin port {at["web_envoy"].url}
  api             {at["api"].url}   {API}
                  its Envoy: {at["api_inbound"]} (mTLS), admin port {at["api_envoy"].url}
  control plane   {admin} (admin), {at["mesh_tls"]} (mesh, TLS), {at["mesh_plaintext"]} (mesh, plaintext)
  files           {plan.directory}

Try, in another terminal:

  allowed: web may GET
    curl -i {web}/hello
  denied, with the policy in x-meshward-decision
    curl -i {web}/admin
    curl -i -X POST {web}/hello
  limited: {REQUESTS_PER_MINUTE} a minute for this identity
    {several}
  refused: no certificate
    curl -i {at["api_inbound"].url}/hello
  a change of policy: /news is closed for the next request, and open again after the DELETE
    {as_admin} --data-binary @{plan.close_news_file} {admin}/v1/policies
    curl -i {web}/news
    {as_admin} -X DELETE {admin}/v1/policies/demo/close-news
  issued certificates, and those that Envoy has
    {as_admin} {admin}/v1/svids
    curl {at["api_envoy"].url}/certs
  what was counted
    curl {admin}/metrics

Ctrl-C stops it and removes everything.
"""

"""A mesh without processes, whose HTTP answers a test chooses."""

from pathlib import Path
from typing import Any

import httpx

from app.core.net import Address
from app.demo.mesh import USUAL_PORTS, Mesh, Plan
from tests.fakes.clock import ManualClock


def mesh_answering(answer, directory=Path("/nowhere"), clock=None):
    """Return a mesh on the usual ports; `answer(name, request)` gets the name of the address."""
    addresses = {name: Address("127.0.0.1", port) for name, port in USUAL_PORTS.items()}
    names = {address.port: name for name, address in addresses.items()}
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda request: answer(names[request.url.port], request)))
    no_processes: Any = None
    return Mesh(Plan(directory, addresses, Path("/opt/envoy")), no_processes, client, clock or ManualClock())

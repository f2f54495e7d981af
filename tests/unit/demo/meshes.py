"""A mesh whose every HTTP answer a test gives: the steps look at it as at the real one."""

from pathlib import Path

import httpx

from app.core.net import Address
from app.demo.mesh import Mesh
from app.demo.plan import USUAL_PORTS, Plan


def mesh_answering(answer, directory=Path("/nowhere")):
    """Return a mesh on the usual ports; `answer(name, request)` is told which address was asked."""
    addresses = {name: Address("127.0.0.1", port) for name, port in USUAL_PORTS.items()}
    names = {address.port: name for name, address in addresses.items()}
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda request: answer(names[request.url.port], request)))
    return Mesh(Plan(directory, addresses, Path("/opt/envoy")), None, client)

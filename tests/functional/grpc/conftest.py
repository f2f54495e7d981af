"""One gRPC application served by h2corn and by hypercorn on a port of its own, and a grpcio channel to it."""

import grpc.aio
import pytest

from tests.fakes.served_echo import Mesh, on_h2corn, on_hypercorn


@pytest.fixture(params=[on_h2corn, on_hypercorn])
async def mesh(request):
    async with request.param(Mesh()) as served:
        yield served


@pytest.fixture
async def h2corn_mesh():
    async with on_h2corn(Mesh()) as served:
        yield served


@pytest.fixture
async def channel(mesh):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.port}") as open_channel:
        yield open_channel

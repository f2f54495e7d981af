"""An application on a port of loopback, served as the mesh ports are."""

from contextlib import asynccontextmanager

from app.core.net import Address
from app.transport.serving import MeshListener
from app.transport.sockets import listen


@asynccontextmanager
async def listening(application, tls=None, **options):
    """Serve it, with the options of the listener; yields the port, which the kernel chooses."""
    listener = MeshListener(listen(Address("127.0.0.1", 0)), application, **options)
    await listener.start(tls)
    try:
        yield listener.port
    finally:
        await listener.stop()

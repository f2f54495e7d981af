import asyncio
import ssl

from app.core.clock import SystemClock
from app.db.migrate import upgrade
from app.main import control_plane as module
from app.main.control_plane import ControlPlane
from app.main.parts import make_parts
from app.settings import load
from app.transport.rest.authentication import ensure_token

# RFC 9113, sections 3.4, 6.5 and 6.8: the client's preface with empty SETTINGS, and the type of GOAWAY.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
GOAWAY = 7


async def test_a_connection_to_the_tls_port_is_ended_in_good_time_so_that_clients_show_their_new_certificates(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "MAX_CONNECTION_SECONDS", 0.2)
    binds = {f"MESHWARD_{name}_BIND": "127.0.0.1:0" for name in ("MESH_TLS", "MESH_PLAINTEXT", "ADMIN")}
    settings = load({"MESHWARD_DATA_DIR": str(tmp_path / "data"), **binds}).settings
    settings.data_dir.mkdir(mode=0o700)
    ensure_token(settings.data_dir / "admin.token")
    parts = make_parts(settings, SystemClock())
    await upgrade(parts.engine)
    control_plane = ControlPlane(parts)
    await control_plane.start()
    try:
        async with asyncio.timeout(30):
            assert await last_frame(control_plane._tls.port, tmp_path / "data" / "bundle.pem") == GOAWAY
    finally:
        await control_plane.stop()
        await parts.engine.dispose()


async def last_frame(port, bundle):
    """Open a connection, ask nothing, and return the type of the last frame before the server ends it."""
    context = ssl.create_default_context(cafile=bundle)
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    writer.write(PREFACE)
    kind = None
    try:
        while True:
            header = await reader.readexactly(9)
            kind = header[3]
            await reader.readexactly(int.from_bytes(header[:3]))
    except asyncio.IncompleteReadError:
        return kind
    finally:
        writer.transport.abort()

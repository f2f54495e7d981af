"""The plaintext port closed, or as a Unix socket: who may open it, and what is there before and after."""

import os
import socket
import stat
import subprocess
import sys

import grpc
import pytest

from tests.support.callers import CART, certify, check, code_of, member

POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: open, namespace: istio-system}
spec: {action: ALLOW, rules: [{to: [{operation: {paths: ["/open"]}}]}]}
"""
CONNECT = """
import os, socket, sys
path, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
socket.socket(socket.AF_UNIX).connect(path)
"""


@pytest.fixture
def path(tmp_path):
    """A path in a directory that is ours alone to write, and that others may search."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o755)
    return directory / "mesh.sock"


def unix_channel(path):
    return grpc.aio.insecure_channel(f"unix:{path}")


def may_connect(path, uid):
    """Whether the kernel lets a process of this user connect. Pytest's own directories keep other users out."""
    for parent in path.parents[1:-1]:
        parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    command = [sys.executable, "-c", CONNECT, str(path), str(uid)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0 or "PermissionError" in done.stderr
    return done.returncode == 0


async def test_checks_and_certificates_are_answered_on_a_unix_socket(serving, path):
    server = serving.start(mesh_plaintext_bind=f"unix:{path}", authz_unknown_workload="root")
    server.post_policies(POLICY)
    async with unix_channel(path) as one, unix_channel(path) as another:
        for channel in (one, another, one):
            assert await check(channel, "/open")
            assert not await check(channel, "/closed")
        identity = await certify(one, token=server.join_token(CART))
        assert identity.spiffe_id == CART
        assert await code_of(certify(another)) is grpc.StatusCode.UNAUTHENTICATED
    assert server.metrics()['meshward_mesh_connections{port="unix",state="unproven"}'] == 0


async def test_no_port_serves_plaintext_when_it_is_off(serving):
    server = serving.start(mesh_plaintext_bind="off")
    assert server.plaintext_port == "off"
    async with member(server) as channel:
        assert await check(channel, "/")
    served = [name for name in server.metrics() if name.startswith("meshward_mesh_connections{")]
    assert served
    assert all(f'port="{server.tls_port}"' in name for name in served)
    assert server.stop() == 0


def test_the_socket_has_its_mode_and_is_removed_at_the_end(serving, path):
    server = serving.start(mesh_plaintext_bind=f"unix:{path}")
    assert server.plaintext_port == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert server.stop() == 0
    assert list(path.parent.iterdir()) == []


def test_the_socket_of_a_control_plane_that_was_killed_is_replaced(serving, path):
    serving.start(mesh_plaintext_bind=f"unix:{path}").kill()
    left = path.stat().st_ino
    serving.start(mesh_plaintext_bind=f"unix:{path}", mesh_plaintext_mode="0666")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert path.stat().st_ino != left
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def listening_already(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (listening_already, "another process is listening on"),
        (lambda path: path.write_text("precious"), "is not a socket"),
        (lambda path: path.parent.chmod(0o775), "other users can write it"),
    ],
)
def test_a_path_that_is_not_ours_alone_is_refused(serving, path, prepare, said):
    kept = prepare(path)
    server = serving.launch(mesh_plaintext_bind=f"unix:{path}")
    assert server.wait() == 1
    assert said in server.log_text
    assert "Traceback" not in server.log_text
    assert path.exists() == (kept is not None)
    if isinstance(kept, socket.socket):
        kept.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")
def test_the_kernel_lets_the_users_that_are_named_connect_and_no_others(serving, path):
    serving.start(mesh_plaintext_bind=f"unix:{path}", mesh_plaintext_uids="1234, 1236")
    assert [may_connect(path, uid) for uid in (1234, 1235, 1236, 0)] == [True, False, True, True]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")
@pytest.mark.parametrize(("mode", "allowed"), [("0660", False), ("0666", True)])
def test_the_mode_decides_whether_other_users_may_connect(serving, path, mode, allowed):
    serving.start(mesh_plaintext_bind=f"unix:{path}", mesh_plaintext_mode=mode)
    assert may_connect(path, 1234) is allowed

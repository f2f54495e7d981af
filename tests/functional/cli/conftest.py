"""The command line, run in this process: starting a new one for every command would cost a second each."""

import asyncio

import pytest

from app.cli import cli
from app.cli.failures import guarded


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `meshward` with arguments and nothing but `environ` of its variables; return status, output and errors."""

    async def run(environ, *arguments):
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            # In a thread, since some commands run an event loop of their own.
            status = await asyncio.to_thread(guarded, lambda: cli(list(arguments), prog_name="meshward"))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run

"""`meshward db` on real databases, as its user starts it."""

import asyncio
import os
import sys

import pytest


@pytest.fixture
def meshward(tmp_path, database_url):
    """Run the command line as a process; return status, output and errors."""

    async def run(*arguments, **environ):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "app.cli",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("MESHWARD_")},
                "MESHWARD_DATA_DIR": str(tmp_path / "data"),
                "MESHWARD_DATABASE_URL": database_url,
                **environ,
            },
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    return run


async def test_an_empty_database_is_brought_up_to_date_once(meshward):
    assert (await meshward("db", "current"))[1].startswith("the database is empty; this version expects ")
    status, out, err = await meshward("db", "upgrade")
    assert (status, err) == (0, "")
    assert out.endswith(", was empty\n")
    status, out, _ = await meshward("db", "upgrade")
    assert status == 0
    assert "was" not in out
    assert "is at step " in (await meshward("db", "current"))[1]


async def test_a_database_that_is_away_is_one_sentence(meshward, tmp_path):
    url = f"postgresql+asyncpg://mesh:hunter2@/mesh?host={tmp_path}"
    status, out, err = await meshward("db", "upgrade", MESHWARD_DATABASE_URL=url)
    assert (status, out) == (1, "")
    assert err.startswith("meshward: cannot connect to the PostgreSQL database 'mesh' at ")
    assert err.count("\n") == 1
    assert "hunter2" not in err


async def test_a_data_dir_that_cannot_be_made_is_one_sentence(meshward, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = await meshward("db", "upgrade", MESHWARD_DATA_DIR=str(tmp_path / "file" / "data"))
    assert status == 1
    assert err.startswith("meshward: cannot make the directory ")
    assert err.count("\n") == 1

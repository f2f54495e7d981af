"""`meshward db` on real databases."""

import pytest


@pytest.fixture
def meshward(run, tmp_path, database_url):
    data_dir = str(tmp_path / "data")

    async def meshward(*arguments, **environ):
        variables = {"MESHWARD_DATA_DIR": data_dir, "MESHWARD_DATABASE_URL": database_url, **environ}
        return await run(variables, *arguments)

    return meshward


async def test_an_empty_database_is_migrated_once(meshward):
    assert (await meshward("db", "current"))[1].startswith("the database is empty; this version expects ")
    status, out, err = await meshward("db", "upgrade")
    assert (status, err) == (0, "")
    assert out.endswith(", was empty\n")
    status, out, _ = await meshward("db", "upgrade")
    assert status == 0
    assert "was" not in out
    assert "is at step " in (await meshward("db", "current"))[1]


async def test_a_database_that_is_away_is_reported_in_one_line(meshward, tmp_path):
    url = f"postgresql+asyncpg://mesh:hunter2@/mesh?host={tmp_path}"
    status, out, err = await meshward("db", "upgrade", MESHWARD_DATABASE_URL=url)
    assert (status, out) == (1, "")
    assert err.startswith("meshward: cannot connect to the PostgreSQL database 'mesh' at ")
    assert err.count("\n") == 1
    assert "hunter2" not in err


async def test_a_data_dir_that_cannot_be_made_is_reported_in_one_line(meshward, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = await meshward("db", "upgrade", MESHWARD_DATA_DIR=str(tmp_path / "file" / "data"))
    assert status == 1
    assert err.startswith("meshward: cannot make the directory ")
    assert err.count("\n") == 1


async def test_a_secret_is_replaced_only_where_there_is_one(meshward, tmp_path):
    await meshward("db", "upgrade")
    status, _, err = await meshward("db", "rotate-secret")
    assert (status, err.count("\n")) == (1, 1)
    assert "no secret to replace" in err
    status, out, _ = await meshward("db", "rotate-secret", "--trust-rows")
    assert (status, out[:7]) == (0, "0 rows ")
    secret = tmp_path / "data/keys/replica.secret"
    before = secret.read_bytes()
    assert (await meshward("db", "rotate-secret"))[0] == 0
    assert secret.read_bytes() != before

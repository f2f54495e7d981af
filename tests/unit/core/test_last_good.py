"""A file with what was last good: whole, of this database and user, and removed once it is known to be out of date."""

import os
import stat

import pytest

from app.core import last_good
from app.core.errors import InvalidInputError, NotFoundError, PreconditionError, UnavailableError
from app.core.last_good import LastGoodFile

ITEMS = [{"a": 1}, ["b", None], "ü\n"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last-good/notes"


@pytest.fixture
def file(path):
    return LastGoodFile(path, "notes", "the database in x")


def read(file):
    return file.read(lambda items: items)


def test_what_was_written_is_read(file, path):
    file.write(ITEMS)
    assert read(file) == ITEMS
    file.write([])
    assert read(file) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_nothing_is_there_before_the_first_write(file):
    with pytest.raises(NotFoundError):
        read(file)


def test_what_is_there_already_is_not_written_again(file, path):
    file.write(ITEMS)
    before = path.stat().st_ino
    file.write(ITEMS)
    assert path.stat().st_ino == before


@pytest.mark.parametrize("other", [("notes", "the database in y"), ("policies", "the database in x")])
def test_what_is_of_another_database_or_kind_is_refused(file, path, other):
    file.write(ITEMS)
    with pytest.raises(PreconditionError, match="of another database"):
        read(LastGoodFile(path, *other))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"\n{}",
        lambda content: content.replace(b"last-good-1", b"last-good-2"),
        lambda content: content.partition(b"\n")[2],
    ],
    ids=["empty", "cut", "longer", "another version", "no checksum"],
)
def test_what_is_not_whole_is_refused(file, path, damage):
    file.write(ITEMS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PreconditionError, match="is refused"):
        read(file)


@pytest.mark.parametrize("problem", [InvalidInputError("no"), ValueError(), TypeError(), KeyError()])
def test_what_cannot_be_decoded_is_refused(file, problem):
    def decode(_items):
        raise problem

    file.write(ITEMS)
    with pytest.raises(PreconditionError, match="is refused"):
        file.read(decode)


def test_what_others_can_read_or_replace_is_refused(file, path):
    file.write(ITEMS)
    path.chmod(0o640)
    with pytest.raises(PreconditionError, match="chmod 600"):
        read(file)
    path.chmod(0o600)
    path.parent.chmod(0o770)
    with pytest.raises(PreconditionError, match="chmod 700"):
        read(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_another_user_is_refused(file, path):
    file.write(ITEMS)
    os.chown(path, 65534, -1)
    with pytest.raises(PreconditionError, match="belongs to user 65534"):
        read(file)


def test_what_could_not_be_replaced_is_out_of_date_and_removed(file, path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    file.write(ITEMS)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnavailableError, match="No space left"):
        file.write([])
    assert list(path.parent.iterdir()) == []


def test_what_is_too_large_is_not_kept(file, path, monkeypatch):
    file.write(ITEMS)
    monkeypatch.setattr(last_good, "MAX_BYTES", 300)
    with pytest.raises(PreconditionError, match="larger than 300 bytes"):
        file.write(["x" * 300])
    assert not path.exists()

"""Secrets on disk: who may read them, and what a crash or a stranger's file does."""

import os
import re
import stat

import pytest

from app.core.errors import ConflictError, InvalidInputError, NotFoundError, PreconditionError, UnavailableError
from app.core.private_files import (
    MAX_FILE_BYTES,
    check_socket_directory,
    create_private_file,
    ensure_data_directory,
    ensure_database_file,
    ensure_private_directory,
    read_private_file,
    replace_private_file,
)


@pytest.fixture(autouse=True)
def _open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "secret"


@pytest.fixture
def other_user(tmp_path, monkeypatch):
    """Everything here belongs to another user, who is not root."""
    if tmp_path.stat().st_uid == 0:
        os.chown(tmp_path, 65534, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)


@pytest.mark.parametrize("write", [create_private_file, replace_private_file])
def test_a_written_file_is_for_its_owner_alone_whatever_the_umask(write, path):
    write(path, b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_private_file(path) == b"secret"
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


def test_creating_leaves_what_is_there_as_it_was(path):
    create_private_file(path, b"first")
    with pytest.raises(ConflictError, match="exists already"):
        create_private_file(path, b"second")
    assert read_private_file(path) == b"first"
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


def test_creating_does_not_write_through_a_dangling_link(path, tmp_path):
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConflictError):
        create_private_file(path, b"secret")
    assert not (tmp_path / "elsewhere").exists()


def test_replacing_swaps_a_link_for_the_file_and_leaves_the_target(path, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"other")
    path.symlink_to(target)
    replace_private_file(path, b"secret")
    assert read_private_file(path) == b"secret"
    assert target.read_bytes() == b"other"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o601, 0o644, 0o777])
def test_a_file_open_to_others_is_refused_with_the_command_that_mends_it(path, mode):
    path.write_bytes(b"secret")
    path.chmod(mode)
    with pytest.raises(PreconditionError, match=re.escape(f"chmod 600 {path}")):
        read_private_file(path)


def test_a_link_is_refused_even_if_its_target_is_private(path, tmp_path):
    create_private_file(tmp_path / "target", b"secret")
    path.symlink_to(tmp_path / "target")
    with pytest.raises(PreconditionError, match="symbolic link"):
        read_private_file(path)


def test_a_named_pipe_is_refused_and_not_waited_for(path):
    os.mkfifo(path, 0o600)
    with pytest.raises(PreconditionError, match="regular file"):
        read_private_file(path)


def test_a_directory_in_the_files_place_is_refused(path):
    path.mkdir(mode=0o700)
    with pytest.raises(PreconditionError, match="regular file"):
        read_private_file(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(NotFoundError, match=re.escape(str(path))):
        read_private_file(path)


def test_a_file_of_another_user_is_refused(path, monkeypatch):
    create_private_file(path, b"secret")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(PreconditionError, match="belongs to user"):
        read_private_file(path)


def test_a_file_too_large_for_a_secret_is_refused(path):
    create_private_file(path, b"x" * (MAX_FILE_BYTES + 1))
    with pytest.raises(InvalidInputError, match="larger"):
        read_private_file(path)


def test_a_full_disk_leaves_the_old_file_and_no_rest(path, monkeypatch):
    replace_private_file(path, b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnavailableError, match="No space left"):
        replace_private_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


def test_a_private_directory_is_made_with_its_parents_and_kept(tmp_path):
    directory = tmp_path / "a" / "keys"
    ensure_private_directory(directory)
    ensure_private_directory(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_private_directory_open_to_others_is_refused(tmp_path, mode):
    directory = tmp_path / "keys"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(PreconditionError, match="chmod 700"):
        ensure_private_directory(directory)


def test_a_private_directory_behind_a_link_is_refused(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "keys").symlink_to(tmp_path / "real")
    with pytest.raises(PreconditionError, match="symbolic link"):
        ensure_private_directory(tmp_path / "keys")


@pytest.mark.parametrize("ensure", [ensure_private_directory, ensure_data_directory])
def test_a_file_in_the_directorys_place_is_refused(tmp_path, ensure):
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(PreconditionError, match="is not a directory"):
        ensure(tmp_path / "taken")
    with pytest.raises(PreconditionError, match="cannot make"):
        ensure(tmp_path / "taken" / "below")


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
def test_a_data_directory_may_be_readable_but_not_writable_by_others(tmp_path, mode):
    directory = tmp_path / "data"
    directory.mkdir()
    directory.chmod(0o755)
    ensure_data_directory(directory)
    directory.chmod(mode)
    with pytest.raises(PreconditionError, match=re.escape(f"other users can write it: run chmod go-w {directory}")):
        ensure_data_directory(directory)


def test_a_data_directory_of_another_user_is_refused(tmp_path, other_user):
    with pytest.raises(PreconditionError, match="belongs to user"):
        ensure_data_directory(tmp_path)


def test_a_database_file_is_made_for_its_owner_alone(path):
    ensure_database_file(path)
    ensure_database_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_a_database_file_that_others_can_read_is_closed_to_them(path, suffix):
    for name in {path.name, path.name + suffix}:
        path.with_name(name).write_bytes(b"rows")
        path.with_name(name).chmod(0o644)
    ensure_database_file(path)
    for entry in path.parent.iterdir():
        assert stat.S_IMODE(entry.stat().st_mode) == 0o600
        assert entry.read_bytes() == b"rows"


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_database_file_that_others_can_write_is_refused(path, suffix, mode):
    ensure_database_file(path)
    file = path.with_name(path.name + suffix)
    file.touch()
    file.chmod(mode)
    with pytest.raises(PreconditionError, match=re.escape(f"run chmod go-w {file}")):
        ensure_database_file(path)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_database_in_a_directory_where_others_can_put_files_is_refused(path, mode):
    ensure_database_file(path)
    path.parent.chmod(mode)
    with pytest.raises(PreconditionError, match=re.escape(f"run chmod go-w {path.parent}")):
        ensure_database_file(path)


def test_a_database_file_of_another_user_is_refused(path, other_user):
    path.touch(0o600)
    with pytest.raises(PreconditionError, match="belongs to user"):
        ensure_database_file(path)


def test_a_database_file_behind_a_link_is_judged_where_it_is(path, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o700)
    path.symlink_to(elsewhere / "real.db")
    ensure_database_file(path)
    elsewhere.chmod(0o777)
    with pytest.raises(PreconditionError, match=re.escape(f"run chmod go-w {elsewhere}")):
        ensure_database_file(path)


def test_a_database_file_that_is_a_pipe_is_refused(path):
    os.mkfifo(path, 0o600)
    with pytest.raises(PreconditionError, match="not a regular file"):
        ensure_database_file(path)


def test_a_socket_may_be_put_where_nobody_can_replace_it(tmp_path):
    for mode in (0o700, 0o755, 0o1777):
        tmp_path.chmod(mode)
        check_socket_directory(tmp_path)
    for mode in (0o775, 0o757, 0o777):
        tmp_path.chmod(mode)
        with pytest.raises(PreconditionError, match="other users can write it"):
            check_socket_directory(tmp_path)
    tmp_path.chmod(0o755)


def test_a_data_directory_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(PreconditionError, match="not writable"):
        ensure_data_directory(tmp_path)


@pytest.mark.parametrize("write", [create_private_file, replace_private_file])
def test_a_place_where_nothing_can_be_written_or_removed_is_one_clear_refusal(write, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PreconditionError, match=r"cannot write .*file/secret"):
        write(tmp_path / "file" / "secret", b"secret")

"""Rego policies on disk: files, directories and bundles."""

import gzip
import io
import os
import tarfile

import pytest

from app.authz.backends import rego_files
from app.authz.backends.rego_files import read_files, read_policies
from app.core.errors import InvalidInputError, UnavailableError

REGO = "package a\nallow := true\n"


def read(path):
    return read_policies(path, read_files(path))


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def bundle(path, files):
    with gzip.open(path, "wb") as packed, tarfile.open(fileobj=packed, mode="w:") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


FILES = {
    "b/policy.rego": REGO,
    "a.rego": REGO,
    "a_test.rego": "not read",
    "data.json": '{"x": {"y": 1}}',
    "x/data.yaml": "z: [2]",
    "notes.txt": "not read",
    ".manifest": '{"revision": "r1", "rego_version": 0}',
}


@pytest.mark.parametrize("packed", [False, True])
def test_a_directory_and_a_bundle_are_read_the_same(tmp_path, packed):
    path = bundle(tmp_path / "b.tgz", FILES) if packed else write(tmp_path, FILES)
    found = read(path)
    assert found.modules == (("a.rego", REGO), ("b/policy.rego", REGO))
    assert found.data == {"x": {"y": 1, "z": [2]}}
    assert (found.v0, found.revision) == (True, "r1")


def test_the_mount_of_a_config_map_is_read_once(tmp_path):
    write(tmp_path, {"..2026/policy.rego": REGO})
    (tmp_path / "policy.rego").symlink_to(tmp_path / "..2026" / "policy.rego")
    assert read(tmp_path).modules == (("policy.rego", REGO),)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, r"has no \.rego file"),
        ({"a.rego": REGO, "data.json": "{"}, "data.json of .* is not valid"),
        ({"a.rego": REGO, "data.json": "[]"}, "it is not an object"),
        ({"a.rego": REGO, "data.json": "[" * 100_000}, "data.json of .* is not valid"),
        ({"a.rego": REGO, ".manifest": "[]"}, "it is not an object"),
        ({"a.rego": REGO, "data.json": '{"x": 1}', "x/data.json": "{}"}, "has a value at 'x'"),
        ({"a.rego": REGO, "data.json": '{"x": {"y": 1}}', "x/data.json": '{"y": 2}'}, "has 'y' already"),
    ],
)
def test_what_is_not_valid_is_refused_with_its_file(tmp_path, files, problem):
    with pytest.raises(InvalidInputError, match=problem):
        read(write(tmp_path, files))


def test_what_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rego_files, "MAX_BYTES", 64 * 1024)
    monkeypatch.setattr(rego_files, "MAX_FILES", 10)
    with pytest.raises(InvalidInputError, match="more than 10 files"):
        read(write(tmp_path / "many", {f"{number}.rego": REGO for number in range(11)}))
    with pytest.raises(InvalidInputError, match="65536 bytes"):
        read(write(tmp_path / "large", {"a.rego": "#" * 65_537}))
    # What unpacks to more than that is not unpacked whole, whatever its name is.
    with pytest.raises(InvalidInputError, match="unpacked"):
        read(bundle(tmp_path / "bomb.tgz", {"notes.txt": "0" * 10_000_000}))


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"no tar" * 200), gzip.compress(b"x" * 5000)[:-20]],
    ids=["nothing", "no gzip", "no tar", "cut short"],
)
def test_what_is_no_bundle_is_refused(tmp_path, content):
    (tmp_path / "b.tar.gz").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"not a bundle|has no \.rego file"):
        read(tmp_path / "b.tar.gz")


def test_what_cannot_be_read_says_so(tmp_path):
    with pytest.raises(UnavailableError, match="No such file"):
        read(tmp_path / "none.rego")
    os.mkfifo(tmp_path / "pipe.rego")
    with pytest.raises(InvalidInputError, match="is not a file"):
        read(tmp_path)

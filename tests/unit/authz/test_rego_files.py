"""Rego policies on disk: files, directories and bundles."""

import gzip
import io
import os
import tarfile

import pytest

from app.authz.backends import bundle_archive, rego_files
from app.authz.backends.rego_files import read_files, read_policies
from app.core.errors import InvalidInputError, UnavailableError

REGO = "package a\nallow := true\n"


def read(path):
    return read_policies(str(path), read_files(path))


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
    monkeypatch.setattr(bundle_archive, "MAX_BYTES", 64 * 1024)
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


def archive(*members):
    """A bundle of members as (name, kind, size, content)."""
    packed = io.BytesIO()
    with gzip.open(packed, "wb") as zipped, tarfile.open(fileobj=zipped, mode="w:") as written:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(content), "/etc/passwd"
            written.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("../a.rego", tarfile.REGTYPE, b"x")], "whose name is none"),
        ([("a/../../a.rego", tarfile.REGTYPE, b"x")], "whose name is none"),
        ([("/", tarfile.REGTYPE, b"x")], "whose name is none"),
        ([("a" * 600, tarfile.REGTYPE, b"x")], "whose name is none"),
        ([("a/" * 40 + "b", tarfile.REGTYPE, b"x")], "whose name is none"),
        ([("a.rego", tarfile.REGTYPE, b"x"), ("/a.rego", tarfile.REGTYPE, b"y")], "'a.rego' twice"),
        ([("a.rego", tarfile.REGTYPE, b"x"), ("./a.rego", tarfile.REGTYPE, b"y")], "'a.rego' twice"),
        ([("a.rego", tarfile.SYMTYPE, b"")], "neither a file nor a directory"),
        ([("a.rego", tarfile.LNKTYPE, b"")], "neither a file nor a directory"),
        ([("a.rego", tarfile.FIFOTYPE, b"")], "neither a file nor a directory"),
        ([("a.rego", tarfile.CHRTYPE, b"")], "neither a file nor a directory"),
        ([(f"{number}.rego", tarfile.REGTYPE, b"x") for number in range(1001)], "more than 1000 files"),
    ],
)
def test_an_archive_with_what_is_no_plain_file_is_refused(members, problem):
    with pytest.raises(InvalidInputError, match=problem):
        bundle_archive.unpack(archive(*members), "the bundle")


def test_the_hole_of_a_sparse_file_is_not_unpacked():
    header = tarfile.TarInfo("a.rego")
    header.size = 512
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[156:157] = tarfile.GNUTYPE_SPARSE
    # One piece of 512 bytes, in a file of 64 GiB.
    block[386:410] = b"%011o\0%011o\0" % (0, 512)
    block[483:495] = b"%011o\0" % (8 << 30)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(InvalidInputError, match="neither a file nor a directory"):
        bundle_archive.unpack(gzip.compress(bytes(block) + b"x" * 512 + bytes(1024)), "the bundle")


MANIFEST = {"a.rego": "package a.b\nx := 1\n", "a/data.json": '{"c": {"d": 1}}'}


@pytest.mark.parametrize("roots", ["[]", '[""]', '["a"]', '["a/b", "a/c"]', '["/a/"]', '["z", "a"]'])
def test_what_is_below_the_roots_is_read(tmp_path, roots):
    assert read(write(tmp_path, MANIFEST | {".manifest": f'{{"roots": {roots}}}'})).data == {"a": {"c": {"d": 1}}}


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ('{"roots": ["b"]}', "the package of a.rego is outside"),
        ('{"roots": ["a/b"]}', "there is data outside"),
        ('{"roots": ["a/c"]}', "the package of a.rego is outside"),
        ('{"roots": ["a/b", "a/c/d/e"]}', "there is data outside"),
        ('{"roots": ["a", "a/b"]}', "in each other"),
        ('{"roots": ["a", "a"]}', "in each other"),
        ('{"roots": "a"}', "no list of strings"),
        ('{"roots": [1]}', "no list of strings"),
        ('{"revision": 1}', "its revision is not a string"),
        ('{"rego_version": 2}', "neither 0 nor 1"),
        ('{"file_rego_versions": {"/a.rego": 0}}', "differs by file"),
    ],
)
def test_what_a_manifest_does_not_allow_is_refused(tmp_path, manifest, problem):
    with pytest.raises(InvalidInputError, match=problem):
        read(write(tmp_path, MANIFEST | {".manifest": manifest}))


def test_packages_are_read_as_rego_has_them(tmp_path):
    text = '# package z\n  package a["b-c"].d # why\nx := 1\n'
    read(write(tmp_path / "in", {"a.rego": text, ".manifest": '{"roots": ["a/b-c"]}'}))
    with pytest.raises(InvalidInputError, match="outside of its roots"):
        read(write(tmp_path / "out", {"a.rego": text, ".manifest": '{"roots": ["a/b"]}'}))


@pytest.mark.parametrize("text", ["package\nb\nx := `\npackage a\n`\n", "package # a\nb\nx := 1\n", "x := 1\n"])
def test_a_package_that_is_written_otherwise_is_not_taken_for_another(tmp_path, text):
    with pytest.raises(InvalidInputError, match="outside of its roots"):
        read(write(tmp_path, {"a.rego": text, ".manifest": '{"roots": ["a"]}'}))

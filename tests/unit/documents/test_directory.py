"""Documents in the files of a directory: every change is seen, a bad one leaves what was active, nothing is written."""

import os

import pytest

from app.core.errors import InvalidInputError, MeshwardError, PreconditionError, UnavailableError
from app.documents import sources as sources_module
from app.documents.model import DocumentKey
from app.documents.sources import DirectorySource
from tests.fakes.clock import ManualClock
from tests.fakes.documents import NOTES, note_store, texts
from tests.fakes.principals import OPERATOR


def text_of(name, text="hello", namespace="home"):
    return f"---\n{{namespace: {namespace}, name: {name}, text: {text}}}\n"


@pytest.fixture
def store(tmp_path, clock):
    return note_store(DirectorySource(NOTES, tmp_path, clock), clock=clock)


async def test_the_documents_of_all_files_are_active(store, tmp_path):
    (tmp_path / "one.yaml").write_text(text_of("a") + text_of("b", "bye"))
    (tmp_path / "two.yml").write_text(text_of("c"))
    (tmp_path / "three.json").write_text('{"namespace": "home", "name": "d", "text": "json"}')
    (tmp_path / "README.md").write_text("not a document")
    (tmp_path / ".hidden.yaml").write_text("not: a note")
    assert await store.refresh()
    assert texts(store) == {"a": "hello", "b": "bye", "c": "hello", "d": "json"}
    assert not await store.refresh()


async def test_files_that_are_changed_added_and_removed_are_seen(store, tmp_path):
    (tmp_path / "one.yaml").write_text(text_of("a"))
    await store.refresh()
    # As long as before, and changed within the same tick of the file system's clock.
    (tmp_path / "one.yaml").write_text(text_of("a", "world"))
    assert await store.refresh()
    assert texts(store) == {"a": "world"}
    (tmp_path / "two.yaml").write_text(text_of("b"))
    assert await store.refresh()
    (tmp_path / "one.yaml").unlink()
    assert await store.refresh()
    assert texts(store) == {"b": "hello"}


async def test_a_link_that_is_swapped_is_seen(store, tmp_path):
    """As Kubernetes updates a ConfigMap: `..data` is a link to a directory, the files are links through it."""
    for version, text in (("..1", "first"), ("..2", "second")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "notes.yaml").write_text(text_of("a", text))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "notes.yaml").symlink_to("..data/notes.yaml")
    await store.refresh()
    assert texts(store) == {"a": "first"}
    (tmp_path / "..data_tmp").symlink_to("..2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")  # noqa: PTH105 - what Kubernetes does
    assert await store.refresh()
    assert texts(store) == {"a": "second"}


async def test_documents_with_one_key_are_merged_where_that_is_wanted(tmp_path):
    def merge(documents):
        return {**documents[0], "text": " ".join(document["text"] for document in documents)}

    clock = ManualClock()
    store = note_store(DirectorySource(NOTES, tmp_path, clock, merge=merge), clock=clock)
    (tmp_path / "one.yaml").write_text(text_of("a", "first") + text_of("b"))
    (tmp_path / "two.yaml").write_text(text_of("a", "second"))
    await store.refresh()
    assert texts(store) == {"a": "first second", "b": "hello"}
    (tmp_path / "one.yaml").write_text(text_of("a", "x" * 100))
    (tmp_path / "two.yaml").write_text(text_of("a", "x" * 100))
    with pytest.raises(InvalidInputError, match=r"one\.yaml and two\.yaml, merged: note 'home/a' is longer") as caught:
        await store.refresh()
    assert len(caught.value.violations) == 1
    assert texts(store) == {"a": "first second", "b": "hello"}


async def test_a_bad_file_keeps_what_was_active_and_is_named_with_its_field(store, tmp_path):
    (tmp_path / "one.yaml").write_text(text_of("a"))
    await store.refresh()
    (tmp_path / "one.yaml").write_text(text_of("a", "changed"))
    (tmp_path / "two.yaml").write_text(text_of("b").replace("text", "txt"))
    (tmp_path / "three.yaml").write_text("a: [")
    for _ in range(2):
        with pytest.raises(InvalidInputError, match=r"notes in .* are not valid: three.yaml: line 2") as caught:
            await store.refresh()
        assert {"two.yaml: line 2: text", "two.yaml: line 2: txt"} <= {each.path for each in caught.value.violations}
        assert texts(store) == {"a": "hello"}
    assert [stored.document["text"] for stored in await store.page(None, 9)] == ["hello"]
    (tmp_path / "two.yaml").unlink()
    (tmp_path / "three.yaml").unlink()
    assert await store.refresh()
    assert texts(store) == {"a": "changed"}


async def test_one_key_in_two_files_is_an_error(store, tmp_path):
    (tmp_path / "one.yaml").write_text(text_of("a"))
    (tmp_path / "two.yaml").write_text(text_of("a", "bye"))
    with pytest.raises(InvalidInputError, match=r"two\.yaml: note 'home/a' is in one\.yaml, too"):
        await store.refresh()


async def test_too_many_documents_are_an_error(store, tmp_path):
    (tmp_path / "one.yaml").write_text("".join(map(text_of, "abcdef")))
    with pytest.raises(InvalidInputError, match="more than 5 notes"):
        await store.refresh()


async def test_a_directory_that_has_no_file_does_not_mean_that_there_are_no_documents(store, tmp_path):
    with pytest.raises(InvalidInputError, match=r"has no .yaml, .yml or .json file"):
        await store.refresh()
    assert not store.loaded
    (tmp_path / "none.yaml").write_text("# no notes, on purpose\n")
    assert await store.refresh()
    assert texts(store) == {}


@pytest.mark.parametrize("broken", ["missing", "dangling", "directory", "pipe", "many", "large"])
async def test_what_cannot_be_read_keeps_what_was_active(store, tmp_path, monkeypatch, broken):
    (tmp_path / "one.yaml").write_text(text_of("a"))
    await store.refresh()
    match broken:
        case "missing":
            tmp_path.rename(tmp_path.with_name("moved"))
        case "dangling":
            (tmp_path / "two.yaml").symlink_to("nowhere")
        case "directory":
            (tmp_path / "two.yaml").mkdir()
        case "pipe":
            os.mkfifo(tmp_path / "two.yaml")
        case "many":
            monkeypatch.setattr(sources_module, "MAX_FILES", 0)
        case "large":
            monkeypatch.setattr(sources_module, "MAX_DIRECTORY_BYTES", 10)
    with pytest.raises(MeshwardError, match=str(tmp_path)):
        await store.refresh()
    assert texts(store) == {"a": "hello"}


async def test_files_that_change_while_they_are_read_are_read_again(store, tmp_path, monkeypatch):
    """A reading that saw one file before a change and the other after it is never taken."""
    readings = [
        {"one.yaml": text_of("a", "old").encode(), "two.yaml": text_of("b", "new").encode()},
        {"one.yaml": text_of("a", "new").encode(), "two.yaml": text_of("b", "new").encode()},
    ]
    monkeypatch.setattr(sources_module, "_read_once", lambda _: readings.pop(0) if len(readings) > 1 else readings[0])
    await store.refresh()
    assert texts(store) == {"a": "new", "b": "new"}
    numbers = iter(range(1000))
    monkeypatch.setattr(sources_module, "_read_once", lambda _: {"one.yaml": text_of("a", next(numbers)).encode()})
    with pytest.raises(UnavailableError, match="change while they are read"):
        await store.refresh()
    assert texts(store) == {"a": "new", "b": "new"}


async def test_nothing_is_changed_through_the_store(store, tmp_path):
    (tmp_path / "one.yaml").write_text(text_of("a"))
    await store.refresh()
    document = {"namespace": "home", "name": "a", "text": "bye"}
    for change in (
        store.apply(OPERATOR, [document]),
        store.replace(OPERATOR, DocumentKey("home", "a"), document),
        store.delete(OPERATOR, DocumentKey("home", "a")),
    ):
        with pytest.raises(PreconditionError, match=f"notes come from {tmp_path}: change them there"):
            await change
    assert texts(store) == {"a": "hello"}
    assert await store.validate([document])


async def test_a_document_keeps_its_version_until_it_changes(store, tmp_path, clock):
    (tmp_path / "one.yaml").write_text(text_of("a") + text_of("b"))
    await store.refresh()
    first = {stored.key.name: stored for stored in await store.page(None, 9)}
    clock.advance(60)
    (tmp_path / "one.yaml").write_text(text_of("b", "bye") + text_of("a"))
    await store.refresh()
    second = {stored.key.name: stored for stored in await store.page(None, 9)}
    assert second["a"] == first["a"] == await store.get(DocumentKey("home", "a"))
    assert second["b"].version > first["b"].version
    assert second["b"].updated_at > first["b"].updated_at


async def test_pages_follow_the_keys(store, tmp_path):
    (tmp_path / "one.yaml").write_text("".join(text_of(name) for name in "cab") + text_of("z", namespace="attic"))
    await store.refresh()
    first = await store.page(None, 2)
    assert [stored.key for stored in first] == [("attic", "z"), ("home", "a")]
    assert [stored.key.name for stored in await store.page(first[-1].key, 9)] == ["b", "c"]
    assert [stored.key.name for stored in await store.page(None, 9, "attic")] == ["z"]

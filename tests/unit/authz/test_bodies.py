"""Bodies as policies read them: forms, messages of gRPC, and what servers read in two ways."""

import gzip
import json
import zlib
from dataclasses import replace
from functools import partial

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.authz.backends.grpc_messages import GrpcMessages
from app.authz.rpc.document import attributes_of, http_attributes
from app.authz.rules.bodies import MAX_FIELDS, MAX_JSON_BYTES, MAX_MESSAGE_BYTES, MAX_PART_HEAD
from app.authz.rules.opa import BodyReading, input_document
from app.authz.rules.parts import EVERYTHING
from app.core.errors import InvalidInputError, UnavailableError
from tests.assets.descriptors import ITEM, descriptor_set, frame
from tests.fakes.authz import request
from tests.fakes.checks import check_request

JSON = "application/json"
URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=xYz"
GRPC = "application/grpc"
CALL = "/shop.v1.Carts/Add"


def document(kind, body, path="/", parts=EVERYTHING, messages=None, skip=False, headers=(), text=False):
    """The input document of a check over gRPC, whose body Envoy packs as bytes unless it is sent as `text`."""
    message = check_request(path, headers={"content-type": kind, **dict(headers)})
    http = message.attributes.request.http
    if text:
        http.body = body.decode()
    else:
        http.raw_body = body
    sent = replace(request("/"), attributes=partial(attributes_of, message.attributes))
    return input_document(sent, parts, BodyReading(messages, skip))


def parsed(*given, **named):
    found = document(*given, **named)
    return found["parsed_body"], found["truncated_body"]


def form(*parts, end="\r\n", boundary="xYz"):
    """A form of (heads, value)."""
    lines = [line for heads, value in parts for line in (f"--{boundary}", *heads, "", value)]
    return end.join([*lines, f"--{boundary}--", ""]).encode()


def field(name, *more):
    return (f'Content-Disposition: form-data; name="{name}"', *more)


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("text", [True, False])
def test_a_form_in_parts_is_its_values_by_their_names(end, text):
    body = form(
        (field("a"), "1"),
        (field("b", "Content-Type: application/json"), '{"x": [1]}'),
        (field("a"), f"2{end}{end}3"),
        (('content-disposition: form-data; name="é"; filename="a\\".txt"', "Content-Type: text/plain"), ""),
        end=end,
    )
    expected = {"a": ["1", f"2{end}{end}3"], "b": [{"x": [1]}], "é": [""]}
    assert parsed(MULTIPART, body, text=text) == (expected, False)
    assert parsed('Multipart/Form-Data; charset=utf-8; Boundary="xYz"', body, text=text) == (expected, False)
    assert parsed(MULTIPART, body, text=text, headers={"content-length": str(len(body) + 1)}) == (None, True)


@pytest.mark.parametrize(
    "disposition",
    [
        'form-data; name="a"',
        'form-data; name="a"; filename="x.txt"',
        "form-data; name=a",
        "form-data; name=a; filename=x.txt; filename*=utf-8''x.txt",
        'Form-Data;name="a";filename="x\\"; name=\\"b"',
    ],
)
def test_names_are_written_as_clients_write_them(disposition):
    body = form(((f"Content-Disposition: {disposition}",), "1"))
    assert parsed(MULTIPART, body) == ({"a": ["1"]}, False)


@pytest.mark.parametrize("files", [{"file": ("x.txt", b"x", "text/plain")}, {"file": (None, b"x")}])
def test_a_form_of_a_client_library_is_read(files):
    sent = httpx.Request("POST", "http://a", data={"a": ["1", "2"], "é b": ""}, files=files)
    expected = {"a": ["1", "2"], "é b": [""], "file": ["x"]}
    assert parsed(sent.headers["content-type"], sent.read()) == (expected, False)


def test_a_file_that_is_not_text_is_read_as_opa_reads_it():
    body = form((field("file"), "xx")).replace(b"xx", b"a\xff\x00")
    assert parsed(MULTIPART, body) == ({"file": ["a\ufffd\x00"]}, False)


GOOD = form((field("a"), "1"))


@pytest.mark.parametrize(
    ("kind", "body", "problem"),
    [
        ("multipart/form-data", GOOD, "one boundary"),
        ("multipart/form-data; boundary=xYz; boundary=b", GOOD, "one boundary"),
        (f"multipart/form-data; boundary={'x' * 71}", GOOD, "one boundary"),
        (MULTIPART, b"preamble\r\n" + GOOD, "begin and end"),
        (MULTIPART, GOOD[:-4], "begin and end"),
        (MULTIPART, b"x", "begin and end"),
        (MULTIPART, GOOD.replace(b"\r\n--xYz--", b"\n--xYz--"), "begin and end"),
        (MULTIPART, GOOD + GOOD, "in a place that parsers read differently"),
        (MULTIPART, form((field("a"), "1\n--xYz\n")), "in a place that parsers read differently"),
        (MULTIPART, form((field("a"), "--xYz")), "in a place that parsers read differently"),
        (MULTIPART, GOOD.replace(b"--xYz\r\n", b"--xYz \r\n"), "begin and end"),
        (MULTIPART, form((field("a"), "1\r"), end="\n"), "do not all end in the same way"),
        (MULTIPART, form((("x", *field("a")), "1")), "with one plain name"),
        (MULTIPART, form((field("a", "x: y\nz: w"), "1")), "with one plain name"),
        (MULTIPART, form((field("a", "x: y\n\n2"), "1")), "with one plain name"),
        (MULTIPART, form((("Content-Disposition: form-data",), "1")), "with one plain name"),
        (MULTIPART, form((("Content-Disposition: form-data; name=a b",), "1")), "with one plain name"),
        (MULTIPART, form((('Content-Disposition: form-data; name="a\\"b"',), "1")), "with one plain name"),
        (MULTIPART, form((("Content-Disposition: form-data; name=a; name=b",), "1")), "with one plain name"),
        (MULTIPART, form((("Content-Disposition: form-data; name=a; size=3",), "1")), "with one plain name"),
        (MULTIPART, form((('Content-Disposition: form-data; name=""',), "1")), "with one plain name"),
        (MULTIPART, form((('Content-Disposition: form-data; name="a"; name="b"',), "1")), "with one plain name"),
        (MULTIPART, form((("Content-Disposition: form-data; name*=utf-8''a",), "1")), "with one plain name"),
        (MULTIPART, form(((*field("a"), *field("b")), "1")), "with one plain name"),
        (MULTIPART, form((field("a", " folded"), "1")), "with one plain name"),
        (MULTIPART, form((field("a", f"x: {'y' * MAX_PART_HEAD}"), "1")), "with one plain name"),
        (MULTIPART, form(((), "1")), "with one plain name"),
        (MULTIPART, form((field("a", "Content-Transfer-Encoding: base64"), "MQ==")), "Content-Transfer-Encoding"),
        (MULTIPART, form((field("a", "Content-Type: application/json"), "{")), "the body is not JSON"),
        (MULTIPART, form(*[(field("a"), "1")] * (MAX_FIELDS + 1)), "more than 1000 parts"),
        (URLENCODED, b"a=1;b=2", "a semicolon"),
        (URLENCODED, b"a=%zz", "a malformed escape"),
        (JSON, b'{"role": "user", "role": "admin"}', "a name twice"),
        (JSON, b'[{"a": {"b": 1, "b": 1}}]', "a name twice"),
        (JSON, b'{"a": "\xff"}', "the body is not JSON"),
        ("Application/JSON", b"{", "the body is not JSON"),
    ],
)
def test_a_body_that_servers_read_in_two_ways_is_refused(kind, body, problem):
    with pytest.raises(InvalidInputError, match=problem):
        document(kind, body)
    assert "parsed_body" not in document(kind, body, skip=True)


# Each has a role that one server finds in it and another does not.
JSON_AND_FORM = b'{"role": "user", "x": "&role=admin&"}'
IN_UTF_7 = b'{"role": "user", "x": "+ACIsACI-role+ACIAOgAi-admin"}'
FORM_IN_A_NAME = b"\x1f\x8b\x08\x08" + bytes(6) + b"&role=user&\0"


@pytest.mark.parametrize(
    ("kind", "body", "headers", "problem"),
    [
        (f'{URLENCODED}; a="{JSON}"', JSON_AND_FORM, {}, "several kinds"),
        (f"{URLENCODED},{JSON}", JSON_AND_FORM, {}, "several kinds"),
        (f"{GRPC}; {URLENCODED}", b"\0\0\0\0\x0b&role=user&", {}, "several kinds"),
        (f"{JSON}; charset=utf-7", IN_UTF_7, {}, "charset"),
        (f'{JSON};Charset="UTF-7"', IN_UTF_7, {}, "charset"),
        (f"{JSON}; charset=utf-8; charset=utf-7", IN_UTF_7, {}, "charset"),
        (f"{JSON}; charset = utf-7", IN_UTF_7, {}, "charset"),
        (f"{URLENCODED}; charset=ibm037", b"a=1", {}, "charset"),
        (MULTIPART, form((field("a", "Content-Type: text/plain; charset=utf-7"), "1")), {}, "charset"),
        (URLENCODED, FORM_IN_A_NAME, {"content-encoding": "gzip"}, "content-encoding"),
        (JSON, b"{}", {"content-encoding": "identity,gzip"}, "content-encoding"),
    ],
)
def test_a_body_that_servers_decode_in_two_ways_is_refused(kind, body, headers, problem):
    for parts in (EVERYTHING, {"parsed_body": EVERYTHING}):
        with pytest.raises(InvalidInputError, match=problem):
            document(kind, body, headers=headers, parts=parts)


@pytest.mark.parametrize("kind", [f"{JSON}; charset=UTF-8", f'{JSON};charset="utf-8"', f"{JSON}; charset=iso-8859-1"])
def test_a_body_in_a_usual_charset_is_read(kind):
    assert parsed(kind, b'{"a": 1}', headers={"content-encoding": "identity"}) == ({"a": 1}, False)


@given(st.binary(max_size=200), st.sampled_from([MULTIPART, URLENCODED, JSON, f"{JSON}; charset=utf-8"]))
def test_any_body_is_read_or_refused(body, kind):
    try:
        found = document(kind, body)
    except InvalidInputError:
        return
    assert found["truncated_body"] is False
    json.dumps(found["parsed_body"])


@given(st.lists(st.tuples(st.text("ab \x7fé", min_size=1), st.text("ab-\r\n\x00é")), max_size=4))
def test_a_form_that_is_written_so_is_read_so(pairs):
    body = form(*[(field(name), value) for name, value in pairs]) if pairs else b"--xYz--"
    if not pairs:
        return
    expected = {}
    for name, value in pairs:
        expected.setdefault(name, []).append(value)
    assert parsed(MULTIPART, body) == (expected, False)


@pytest.fixture
async def messages(tmp_path):
    (tmp_path / "services.pb").write_bytes(descriptor_set())
    found = GrpcMessages(tmp_path / "services.pb")
    await found.refresh()
    return found


READ = {"cartId": "c1", "count": "7", "parts": [{}]}


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (CALL, frame(ITEM), (READ, False)),
        (CALL, frame(b""), ({}, False)),
        (CALL, b"", (None, False)),
        (CALL, frame(ITEM)[:-1], (None, True)),
        (CALL, frame(ITEM)[:3], (None, True)),
        ("/shop.v1.Carts/Other", frame(ITEM), (None, False)),
        ("/shop.v1.Other/Add", frame(ITEM), (None, False)),
        ("/shop.v1.Item/Add", frame(ITEM), (None, False)),
        ("/shop.v1.Carts/Watch", frame(ITEM) * 2, (None, False)),
        ("/shop.v1.Carts/Watch", frame(b"garbage"), (None, False)),
    ],
)
async def test_the_message_of_a_call_is_read_by_its_descriptor(messages, path, body, expected):
    for kind in (GRPC, f"{GRPC}+proto"):
        assert parsed(kind, body, path, messages=messages) == expected
        assert parsed(kind, body, path) == (None, False)
        assert parsed(kind, body, path, messages=messages, headers={"x-envoy-auth-partial-body": "true"}) == (
            None,
            True,
        )


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_message_that_is_compressed_is_unpacked(messages, encoding, pack):
    def read(body, name=encoding):
        return parsed(GRPC, body, CALL, messages=messages, headers={"grpc-encoding": name})

    assert read(frame(pack(ITEM), 1)) == (READ, False)
    for body in (frame(pack(ITEM)[:-1], 1), frame(ITEM, 1), frame(pack(ITEM) + b"x", 1)):
        with pytest.raises(InvalidInputError, match="not compressed as"):
            read(body)
    with pytest.raises(InvalidInputError, match="longer than"):
        read(frame(pack(b"\0" * (100 << 20)), 1))
    for name in ("", "identity", "br", "snappy"):
        with pytest.raises(InvalidInputError, match="compressed in a way"):
            read(frame(pack(ITEM), 1), name)
    with pytest.raises(InvalidInputError, match="compressed in a way"):
        read(frame(pack(ITEM), 2))


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        (CALL, frame(b"\x0a\xff"), "is not one of shop.v1.Item"),
        (CALL, frame(b"\x0a\x01\xff"), "is not one of shop.v1.Item"),
        (CALL, frame(b"\x1a\x0a\x08" + b"\x80" * 8 + b"\x40"), "is not one of shop.v1.Item"),
        (CALL, frame(ITEM) * 2, "more than the one message"),
        (CALL, frame(ITEM) + b"\0", "more than the one message"),
        (CALL, frame(b"\x22\x00" * MAX_MESSAGE_BYTES), "longer than"),
        ("/shop.v1.Carts", frame(ITEM), "not a call"),
        ("/shop.v1.Carts/Add/x", frame(ITEM), "not a call"),
        ("/shop.v1.Carts/Add?x", frame(ITEM), "not a call"),
        ("/shop%2ev1.Carts/Add", frame(ITEM), "not a call"),
    ],
)
async def test_what_is_no_message_of_the_call_is_refused(messages, path, body, problem):
    with pytest.raises(InvalidInputError, match=problem):
        document(GRPC, body, path, messages=messages)


async def test_a_message_that_is_nested_too_deep_is_refused(messages):
    nested = b""
    for _ in range(200):
        nested = b"\x22" + bytes(_length(len(nested))) + nested
    with pytest.raises(InvalidInputError, match="is not one of"):
        document(GRPC, frame(nested), CALL, messages=messages)


def _length(number):
    while number > 127:
        yield number & 127 | 128
        number >>= 7
    yield number


async def test_parts_of_a_document_have_the_bodies_that_all_of_it_has(messages):
    parts = {"parsed_body": EVERYTHING, "truncated_body": EVERYTHING}
    for kind, body, path in ((GRPC, frame(ITEM), CALL), (MULTIPART, form((field("a"), "é")), "/")):
        whole = document(kind, body, path, messages=messages)
        assert document(kind, body, path, parts, messages) == {name: whole[name] for name in parts}


async def test_a_check_over_http_has_the_message_as_well(messages):
    headers = [("content-type", GRPC.encode())]
    attributes = http_attributes("POST", CALL, headers, frame(ITEM), "")
    sent = replace(request("/"), attributes=lambda _parts: attributes, over_http=True)
    assert input_document(sent, reading=BodyReading(messages))["parsed_body"] == READ


async def test_a_file_of_descriptors_is_read_again_when_it_changes(tmp_path):
    path = tmp_path / "services.pb"
    messages = GrpcMessages(path)
    with pytest.raises(UnavailableError, match="cannot read"):
        await messages.refresh()
    assert [messages.loaded] == [False]
    with pytest.raises(InvalidInputError, match="not loaded yet"):
        document(GRPC, frame(ITEM), CALL, messages=messages)
    path.write_bytes(descriptor_set())
    await messages.refresh()
    assert messages.loaded
    for content, problem in (
        (b"garbage", "is not a set of descriptors"),
        (b"", "has the descriptor of no service"),
        (descriptor_set(imports=False), r"lacks what shop\.proto imports"),
        (descriptor_set().replace(b".shop.v1.Item", b".shop.v1.Itex"), "contradict each other"),
    ):
        path.write_bytes(content)
        for _ in range(2):
            with pytest.raises(InvalidInputError, match=problem):
                await messages.refresh()
        assert parsed(GRPC, frame(ITEM), CALL, messages=messages) == (READ, False)


def test_json_that_is_too_long_is_not_parsed():
    with pytest.raises(InvalidInputError, match="the body is JSON longer than"):
        document(JSON, b"[" + b" " * MAX_JSON_BYTES + b"]", parts={})
    with pytest.raises(InvalidInputError, match="the body is JSON longer than"):
        document(MULTIPART, form((field("a", f"Content-Type: {JSON}"), " " * MAX_JSON_BYTES + "1")), parts={})

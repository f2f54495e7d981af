"""Conditions in CEL over Envoy's attributes, and the provider that decides by one."""

import os
from dataclasses import replace
from functools import partial

import pytest

from app.authz.backends.cel import MAX_BYTES, CelOptions, CelProvider
from app.authz.rpc.document import attributes_of
from app.authz.rules.cel import ATTRIBUTES, read_condition
from app.core.errors import InvalidInputError, UnavailableError
from tests.fakes.authz import request
from tests.fakes.checks import check_request


def message(path="/api/v1/items?page=2", **given):
    found = check_request(path, headers={"x-user": "ann", "user-agent": "curl", "referer": "http://a/"}, **given)
    attributes = found.attributes
    attributes.source.principal = "spiffe://cluster.local/ns/shop/sa/web"
    attributes.source.address.socket_address.address = "10.0.0.7"
    attributes.source.address.socket_address.port_value = 40000
    attributes.destination.address.socket_address.address = "fd00::1"
    attributes.destination.address.socket_address.port_value = 8080
    attributes.destination.labels["app"] = "cart"
    attributes.request.time.FromJsonString("2026-11-29T10:20:30Z")
    http = attributes.request.http
    http.host, http.scheme, http.protocol, http.size, http.id, http.body = "shop", "https", "HTTP/2", 3, "7", "abc"
    attributes.tls_session.sni = "shop.example.org"
    claims = attributes.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"]
    claims.update({"payload": {"sub": "ann", "groups": ["dev"], "level": 3}})
    return found


def check(given=None):
    return replace(request("/"), attributes=partial(attributes_of, (given or message()).attributes))


def answer(text, given=None):
    return read_condition(text).decide(check(given))


@pytest.mark.parametrize(
    "text",
    [
        "true",
        'request.method == "GET" && request.path == "/api/v1/items?page=2" && request.url_path == "/api/v1/items"',
        'request.query == "page=2" && request.host == "shop" && request.scheme == "https"',
        'request.protocol == "HTTP/2" && request.size == 3 && request.id == "7" && request.body == "abc"',
        'request.headers["x-user"] == "ann" && !("x-none" in request.headers) && has(request.headers.referer)',
        'request.headers[?"x-none"].orValue("z") == "z"',
        'request.referer == "http://a/" && request.useragent == "curl"',
        'request.time < timestamp("2027-01-01T00:00:00Z") && request.time.getHours() == 10',
        'source.address == "10.0.0.7:40000" && source.port == 40000',
        'source.principal == "spiffe://cluster.local/ns/shop/sa/web"',
        'destination.address == "[fd00::1]:8080" && destination.port == 8080 && destination.labels.app == "cart"',
        'connection.mtls && connection.requested_server_name == "shop.example.org"',
        'connection.uri_san_peer_certificate.startsWith("spiffe://cluster.local/")',
        '"dev" in metadata.filter_metadata["envoy.filters.http.jwt_authn"].payload.groups',
        'metadata.filter_metadata["envoy.filters.http.jwt_authn"].payload.level == 3',
        'has(source.principal) && !has(source.service) && size(request) > 5 && "method" in request',
        'request.url_path.matches("^/api/v[0-9]+/")',
    ],
)
def test_attributes_have_envoys_names_and_types(text):
    assert answer(text).denial == ""


TEN = "'abcdefghij'.split('')"
LONG = f"size(['{'a' * 64}']{'.map(a, a + a)' * 11}) == 0"
COSTLY = f"{TEN}.all(a, {TEN}.all(b, {TEN}.all(c, {TEN}.all(d, {TEN}.all(e, true)))))"


@pytest.mark.parametrize(
    ("text", "denial", "undecided"),
    [
        ('request.method == "POST"', "its expression is false", False),
        ("source.service == 'x'", "its expression has no value: a key or an element is missing: 'service'", True),
        ("request.headers['x-none'] == 'x'", "its expression has no value: a key or an element", True),
        ("request.method", "its expression is a string, not a bool", True),
        ("null", "its expression is a null_type, not a bool", True),
        ("1", "its expression is a int, not a bool", True),
        ("request.size / 0 == 1", "its expression has no value: a number cannot be calculated", True),
        ("'a' in metadata.filter_metadata.other.payload", "its expression has no value", True),
        (f"{COSTLY} || true", "its expression has no value: it takes more than 10000 steps", True),
        (f"{LONG} || true", "its expression has no value: a value is longer than 65536 characters or items", True),
        (f"!({LONG} && false)", "its expression has no value: a value is longer than", True),
        (f"!({COSTLY} && false)", "its expression has no value: it takes more than 10000 steps", True),
    ],
)
def test_what_is_not_true_denies_with_the_reason(text, denial, undecided):
    found = answer(text)
    assert found.denial.startswith(denial)
    assert found.undecided is undecided


def test_a_check_without_what_is_asked_for_denies():
    empty = check_request("/")
    empty.ClearField("attributes")
    for variable, attributes in ATTRIBUTES.items():
        for name in attributes:
            if (variable, name) not in {("connection", "mtls"), ("request", "headers")}:
                assert answer(f"{variable}.{name} == {variable}.{name}", empty).undecided, name
    assert answer("connection.mtls", empty).denial
    assert read_condition("true").decide(request("/")).undecided


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("request.metod == 'GET'", "attribute that does not exist: request.metod: did you mean method"),
        ("connection.zzz == 'GET'", "attribute that does not exist: connection.zzz; there is mtls"),
        ("headers['a'] == 'b'", "variable that does not exist: headers"),
        ("request.path ==\n\n", "the end"),
    ],
)
def test_what_does_not_exist_is_refused_when_it_is_read(text, problem):
    with pytest.raises(InvalidInputError, match=problem):
        read_condition(text)


def test_a_check_is_written_out_no_further_than_the_expression_reads():
    condition = read_condition('request.headers["x-user"] == "ann" && source.port > 0')
    read = attributes_of(message().attributes, condition.parts)
    assert read["request"]["http"]["headers"] == {"x-user": "ann"} | {
        name: value for name, value in read["request"]["http"]["headers"].items() if name.startswith("content")
    }
    assert set(read) == {"source", "request"}
    assert set(read["source"]) == {"address"}


async def test_an_expression_of_the_settings_decides_once_it_is_read():
    provider = CelProvider("ext", CelOptions('request.method == "GET"'))
    assert provider(check()).denial == "its expression is not loaded yet"
    await provider.refresh()
    assert provider.loaded
    assert not provider(check()).denial
    await provider.close()


async def test_a_file_that_is_not_valid_leaves_the_expression_before_active(tmp_path):
    path = tmp_path / "policy.cel"
    path.write_text('// who may\nrequest.method == "GET"\n')
    provider = CelProvider("ext", CelOptions(path=path))
    await provider.refresh()
    path.write_text('request.method ==\n  "GET" &&\n  nothing')
    for _ in range(2):
        with pytest.raises(
            InvalidInputError, match=r"provider ext: the expression has a variable .*: nothing, at line 3"
        ):
            await provider.refresh()
    assert not provider(check()).denial
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidInputError, match="is not UTF-8"):
        await provider.refresh()
    path.write_text("/" * (MAX_BYTES + 1))
    with pytest.raises(InvalidInputError, match="is longer than"):
        await provider.refresh()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InvalidInputError, match="is not a file"):
        await provider.refresh()
    path.unlink()
    with pytest.raises(UnavailableError, match="cannot read"):
        await provider.refresh()
    assert not provider(check()).denial
    path.write_text("false")
    await provider.refresh()
    assert provider(check()).denial == "its expression is false"

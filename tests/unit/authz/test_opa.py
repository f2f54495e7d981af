"""OPA-Envoy's input document and decisions."""

import json
from base64 import b64encode
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.authz.rpc.document import attributes_of
from app.authz.rules.opa import (
    MAX_DECISION_BYTES,
    MAX_INPUT_BYTES,
    input_document,
    input_text,
    read_decision,
    read_reply,
)
from app.core.errors import InvalidInputError
from tests.fakes.authz import request
from tests.fakes.checks import FRONT, check_request


def document(path="/", *, body="", raw_body=b"", **given):
    message = check_request(path, **given)
    http = message.attributes.request.http
    http.body, http.raw_body = body, raw_body
    return json.loads(
        input_text(input_document(replace(request("/"), attributes=partial(attributes_of, message.attributes))))
    )


def test_the_input_document_has_what_opa_envoys_has():
    found = document("/api/v1/%61?a=1&b=x+y&a=%32", headers={"x-user": "alice"}, extensions={"k": "v"})
    assert found == {
        "attributes": {
            "source": {
                "address": {"socketAddress": {"address": "10.1.2.3", "portValue": 40000}},
                "principal": FRONT,
            },
            "destination": {
                "address": {"socketAddress": {"address": "10.9.9.9", "portValue": 8080}},
                "principal": "spiffe://cluster.local/ns/shop/sa/api",
                "labels": {"app": "shop"},
            },
            "request": {
                "http": {
                    "method": "GET",
                    "path": "/api/v1/%61?a=1&b=x+y&a=%32",
                    "host": "shop.example.org",
                    "protocol": "HTTP/1.1",
                    "headers": {"x-user": "alice"},
                }
            },
            "contextExtensions": {"k": "v"},
        },
        "parsed_path": ["api", "v1", "a"],
        "parsed_query": {"a": ["1", "2"], "b": ["x y"]},
        "parsed_body": None,
        "truncated_body": False,
        "version": {"ext_authz": "v3", "encoding": "protojson"},
    }


def test_a_path_is_read_up_to_its_fragment():
    found = document("/admin#/public?a=1")
    assert (found["parsed_path"], found["parsed_query"]) == (["admin"], {})
    found = document("/admin?a=1#&b=2")
    assert (found["parsed_path"], found["parsed_query"]) == (["admin"], {"a": ["1"]})


@pytest.mark.parametrize("path", ["/a%zz", "/a%", "/%2", "/a\x00", "/a\nb", "/\x7f"])
def test_a_path_that_opa_envoy_cannot_read_is_refused(path):
    with pytest.raises(InvalidInputError, match="the path has a malformed escape or a control character"):
        document(path)


def test_what_is_rare_is_in_protobufs_json_form():
    message = check_request()
    attributes = message.attributes
    attributes.request.time.FromJsonString("2026-11-29T07:00:00.5Z")
    attributes.request.http.size = 12
    attributes.source.address.pipe.path = "/run/x"
    attributes.tls_session.sni = "shop"
    attributes.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"].update({"sub": "alice"})
    found = attributes_of(attributes)
    assert found["request"]["time"] == "2026-11-29T07:00:00.500Z"
    assert found["request"]["http"]["size"] == "12"
    assert found["source"]["address"] == {"pipe": {"path": "/run/x"}}
    assert found["tlsSession"] == {"sni": "shop"}
    assert found["metadataContext"] == {"filterMetadata": {"envoy.filters.http.jwt_authn": {"sub": "alice"}}}


@pytest.mark.parametrize("broken", ["number", "type", "time"])
def test_what_cannot_be_written_as_json_is_refused_with_its_place(broken):
    message = check_request()
    attributes = message.attributes
    if broken == "number":
        attributes.metadata_context.filter_metadata["x"].fields["n"].number_value = float("nan")
    elif broken == "type":
        attributes.metadata_context.typed_filter_metadata["x"].type_url = "type.googleapis.com/no.Such"
    else:
        attributes.request.time.seconds = 10**15
    with pytest.raises(InvalidInputError, match=r"cannot be written as JSON, in its (Metadata|Timestamp)"):
        attributes_of(attributes)


def test_raw_headers_are_there_as_envoy_writes_them_without_the_option():
    found = document(raw_headers=[("x-a", b"1"), ("X-A", b"2"), ("x-b", b"\xff\xc3\xa9")])
    http = found["attributes"]["request"]["http"]
    assert http["headers"] == {"x-a": "1,2", "x-b": "!é"}
    assert http["headerMap"]["headers"][2] == {"key": "x-b", "rawValue": b64encode(b"\xff\xc3\xa9").decode()}


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "body", "parsed", "truncated"),
    [
        (JSON, '{"a": [1]}', {"a": [1]}, False),
        ({"content-type": "application/json; charset=utf-8"}, "1", 1, False),
        (JSON, "", None, False),
        ({}, '{"a": 1}', None, False),
        ({"content-type": "text/plain"}, "a", None, False),
        (JSON | {"content-length": "99"}, '{"a": 1}', None, True),
        (JSON | {"content-length": "8"}, '{"a": 1}', {"a": 1}, False),
        (JSON | {"x-envoy-auth-partial-body": "true"}, '{"a": 1}', None, True),
        ({"content-type": "application/x-www-form-urlencoded"}, "a=1&b=&a=2", {"a": ["1", "2"], "b": [""]}, False),
    ],
)
def test_a_body_is_parsed_by_its_content_type_if_it_is_whole(headers, body, parsed, truncated):
    for found in (document(headers=headers, body=body), document(headers=headers, raw_body=body.encode())):
        assert (found["parsed_body"], found["truncated_body"]) == (parsed, truncated)


@pytest.mark.parametrize(
    ("headers", "body", "problem"),
    [
        (JSON, "{", "the body is not JSON"),
        (JSON, '{"a": NaN}', "the body is not JSON"),
        (JSON, "[" * 100_000 + "]" * 100_000, "the body is not JSON"),
        (JSON | {"content-length": "x"}, "{}", "content-length is not a number"),
        (JSON | {"content-length": "9" * 10_000}, "{}", "content-length is not a number"),
        ({}, "x" * MAX_INPUT_BYTES, "is longer than"),
        ({"content-type": "application/x-www-form-urlencoded"}, "a=1&" * 2000, "more than 1000 parameters"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(headers, body, problem):
    with pytest.raises(InvalidInputError, match=problem):
        document(headers=headers, body=body)


def test_a_body_that_is_not_text_is_there_as_base64():
    http = document(raw_body=b"\xff\x00")["attributes"]["request"]["http"]
    assert (http["rawBody"], "body" in http) == (b64encode(b"\xff\x00").decode(), False)


def test_a_boolean_decides():
    assert not read_decision(True).denial
    assert (read_decision(False).denial, read_decision(False).undecided) == ("its policy denies the request", False)


def test_an_object_has_what_envoy_changes():
    answer = read_decision(
        {
            "allowed": True,
            "headers": {"x-a": "1", "x-b": ["2", "3"]},
            "response_headers_to_add": [{"x-c": "4"}, {"x-c": "5"}],
            "request_headers_to_remove": ["x-d"],
            "query_parameters_to_set": {"q": ["6"]},
            "query_parameters_to_remove": ["r"],
            "dynamic_metadata": {"n": 1},
            "reason": "keys that are not known are left",
        }
    )
    changes = answer.changes
    assert not answer.denial
    assert changes.headers == (("x-a", "1"), ("x-b", "2"), ("x-b", "3"))
    assert changes.response_headers == (("x-c", "4"), ("x-c", "5"))
    assert (changes.headers_to_remove, changes.query_to_set, changes.query_to_remove) == (
        ("x-d",),
        (("q", "6"),),
        ("r",),
    )
    assert json.loads(changes.metadata) == {"n": 1}


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "decision",
    [
        None,
        1,
        "true",
        [],
        {},
        {"allowed": 1},
        {"allowed": "true"},
        {"allow": True},
        *(
            {"allowed": True} | wrong
            for wrong in (
                {"headers": "x"},
                {"headers": {"x": 1}},
                {"headers": {"x y": "1"}},
                {"headers": {":path": "/public"}},
                {"headers": {"x": "1\r\nset-cookie: a"}},
                {"headers": [["x", "1"]]},
                {"headers": {f"x-{number}": "1" for number in range(101)}},
                {"response_headers_to_add": {"x": None}},
                {"request_headers_to_remove": "x"},
                {"request_headers_to_remove": ["Host"]},
                {"request_headers_to_remove": [":method"]},
                {"query_parameters_to_set": {"q": 1}},
                {"query_parameters_to_remove": [1]},
                {"http_status": "403"},
                {"http_status": True},
                {"http_status": 99},
                {"http_status": 418},
                {"http_status": 403.5},
                {"body": 1},
                {"body": "\ud800"},
                {"body": "x" * MAX_DECISION_BYTES},
                {"dynamic_metadata": []},
                {"dynamic_metadata": {"n": float("nan")}},
                {"dynamic_metadata": nested(5000)},
                {"dynamic_metadata": nested(64)},
            )
        ),
    ],
)
def test_a_decision_of_another_type_denies(decision):
    answer = read_decision(decision)
    assert answer.denial.startswith("its decision ")
    assert answer.undecided


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda each: (
            st.lists(each) | st.dictionaries(st.sampled_from(["allowed", "headers", "body", "http_status", "x"]), each)
        ),
    )
)
def test_nothing_but_true_and_an_object_that_allows_lets_a_request_pass(decision):
    answer = read_decision(decision)
    if not answer.denial:
        assert decision is True or decision["allowed"] is True


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b"\xff", b"[" * 100_000, b'{"allowed": tru'])
def test_a_reply_that_is_not_json_denies(text):
    assert read_reply(text).undecided

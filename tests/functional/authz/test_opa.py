"""The provider that asks OPA: against a real one where it is built, and against servers that are none."""

import asyncio
import gzip
import json
import random
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import jwt
import pytest

from app.authz.backends.opa import MAX_ANSWER_BYTES, OpaOptions, OpaProvider
from app.authz.backends.policy_source import PathSource
from app.authz.backends.rego import RegoOptions, RegoProvider
from app.authz.backends.rego_cost import Cost
from app.authz.providers import Answer
from app.authz.rpc.document import attributes_of
from app.authz.rules.parts import parts_of
from tests.fakes.authz import request
from tests.fakes.checks import check_request
from tests.fakes.clock import ManualClock
from tests.support.opa_process import opa_process

SECONDS = 20.0
REQUESTS = 1_000
SEED = 1729

# What policies for OPA-Envoy are made of: headers, paths, queries, bodies, sets, functions, objects.
REGO = """package envoy.authz

import input.attributes.request.http as http

default allow := false

allow := decision if http.method != "GET"

allow if {
    http.method == "GET"
    glob.match("/people/*", ["/"], http.path)
}

allow if {
    http.method == "GET"
    some role in roles
    role in {"admin", "ops"}
}

roles contains lower(role) if some role in split(object.get(http.headers, "x-roles", ""), ",")

decision := {
    "allowed": count(reasons) == 0,
    "headers": {"x-roles": sort(roles), "x-path": concat("/", input.parsed_path)},
    "http_status": 401,
    "body": sprintf("%d reasons: %v", [count(reasons), sort(reasons)]),
    "dynamic_metadata": {"reasons": reasons, "depth": count(input.parsed_path)},
}

reasons contains "no user" if not http.headers["x-user"]

reasons contains "bad user" if not regex.match(`^[a-z]+$`, http.headers["x-user"])

reasons contains "body" if input.parsed_body.amount > 100

reasons contains "form" if "1" in input.parsed_body.blocked

reasons contains "query" if {
    some values in input.parsed_query
    every value in values { value in {"7", "9"} }
}

reasons contains "peer" if not net.cidr_contains("10.0.0.0/8", input.attributes.source.address.socketAddress.address)

reasons contains "truncated" if input.truncated_body
"""

# What is evaluated without a process being asked.
BOUNDED = """package envoy.authz

import input.attributes.request.http as http

default allow := false

names := {"1": "one", "2": "two"}

allow if {
    http.method == "GET"
    is_reader
    startswith(http.path, "/people/")
    not endswith(http.path, "x")
}

allow := {"allowed": false, "body": reason, "http_status": 401, "headers": {"x": [http.method]}} if http.method != "GET"

reason := "amount" if {
    input.parsed_body.amount > 100
} else := names[input.parsed_query.n[0]] if {
    true
} else := sprintf("%s: %v", [http.method, concat("/", input.parsed_path)]) if {
    not blank(http.headers["x-user"])
} else := "none"

is_reader if http.headers["x-user"] in {"alice", "Bob"}

is_reader if {
    some value in input.parsed_query.n
    value == "7"
}

is_reader if {
    count([part | some part in input.parsed_path; part != "x"]) > 1
    every part in input.parsed_path { part != "people" }
}

blank(name) if name == ""

blank(name) if regex.match(`^[^a-z]`, name)
"""

PATHS = [
    "/",
    "/people/alice",
    "/people/alice/x",
    "//people/bob",
    "/a%20b?n=7",
    "/x?n=3&n=9&m=",
    "/é",
    "/%C3%A9",
    "/a;b?c=d;e",
]
BODIES = {
    "application/json": [
        '{"amount": 101}',
        '{"amount": 1e2}',
        '{"amount": "7"}',
        "[1, 2]",
        "null",
        '{"amount": 1, "amount": 500}',
        "{",
    ],
    "application/x-www-form-urlencoded": ["blocked=1&x=%20", "blocked=2", "a", ""],
    "text/plain": ["amount=101", '{"amount": 101}'],
}


def check(path="/", *, body="", **given):
    message = check_request(path, **given)
    message.attributes.request.http.body = body
    return replace(request("/"), attributes=partial(attributes_of, message.attributes))


def generated():
    some = random.Random(SEED)
    for _ in range(REQUESTS):
        headers = {}
        if some.random() < 0.7:
            headers["x-user"] = some.choice(["alice", "Bob", "eve1", "", "ü"])
        if some.random() < 0.6:
            headers["x-roles"] = ",".join(some.choices(["admin", "OPS", "dev", "", "ä"], k=some.randint(1, 3)))
        body = ""
        if some.random() < 0.7:
            headers["content-type"] = some.choice(list(BODIES))
            body = some.choice(BODIES[headers["content-type"]])
            if some.random() < 0.2:
                headers["content-length"] = str(len(body.encode()) + some.randint(0, 1))
        yield check(some.choice(PATHS), body=body, method=some.choice(["GET", "POST", "DELETE"]), headers=headers)


def options(url, **given):
    return OpaOptions(**({"url": url, "query": "envoy/authz/allow", "seconds": SECONDS, "connections": 4} | given))


@asynccontextmanager
async def asking(url, clock=None, **given):
    provider = OpaProvider(options(url, **given), clock or ManualClock())
    try:
        yield provider
    finally:
        await provider.close()


@pytest.mark.peer
@pytest.mark.parametrize(("text", "where"), [(REGO, "process"), (BOUNDED, "here"), (BOUNDED, "process")])
async def test_a_real_opa_and_the_embedded_engine_decide_the_same(tmp_path, monkeypatch, text, where):
    policy = tmp_path / "policy.rego"
    policy.write_text(text)
    embedded = RegoProvider("ext", RegoOptions(PathSource(policy), "envoy/authz/allow", SECONDS, 1), ManualClock())
    if where == "process":
        monkeypatch.setattr(Cost, "fits", lambda _cost, _text: False)
    monkeypatch.setattr("app.authz.backends.kept_answers.MAX_KEY_BYTES", 0)
    await embedded.refresh()
    outcomes = set()
    try:
        with opa_process(tmp_path, text) as url:
            async with asking(url) as remote:
                for each in generated():
                    ours, theirs = embedded(each), await remote(each)
                    assert where == "process" or isinstance(ours, Answer)
                    ours = ours if isinstance(ours, Answer) else await ours
                    assert (ours.denial, ours.undecided) == (theirs.denial, theirs.undecided)
                    assert ours.changes == theirs.changes
                    outcomes.add((bool(ours.denial), ours.undecided, ours.changes.body or ""))
    finally:
        await embedded.close()
    # The requests are many kinds, and so are the answers.
    assert len(outcomes) > (20 if text is REGO else 6)


TOKENS = """package envoy.authz

import input.attributes.request.http.headers as headers

secret := "a secret that is long enough for each of the algorithms that are used"

default allow := false

allow := {"allowed": true, "headers": {
    "decoded": json.marshal(io.jwt.decode(headers.token)),
    "hs256": json.marshal(io.jwt.verify_hs256(headers.token, secret)),
    "hs512": json.marshal(io.jwt.verify_hs512(headers.token, secret)),
    "plain": json.marshal(io.jwt.decode_verify(headers.token, {"secret": secret})),
    "strict": json.marshal(io.jwt.decode_verify(headers.token, {
        "secret": secret, "iss": "i", "aud": "a", "alg": "HS256", "time": 1700000000000000000,
    })),
}}
"""


def tokens():
    some = random.Random(SEED)
    secret = "a secret that is long enough for each of the algorithms that are used"
    for _ in range(100):
        claims: dict[str, Any] = {"iss": some.choice("ij"), "n": some.choice([1, -2, "é", None, [True]])}
        if some.random() < 0.6:
            claims["aud"] = some.choice(["a", "b", ["b", "a"], []])
        for name in ("exp", "nbf"):
            if some.random() < 0.5:
                claims[name] = some.choice([1_600_000_000, 1_700_000_000, 1_800_000_000, 99_000_000_000])
        text = jwt.encode(claims, some.choice([secret, secret, secret + "x"]), some.choice(["HS256", "HS512"]))
        yield some.choice([text, text, text, text[:-3], text.replace(".", "", 1), f"{text}.x"])


@pytest.mark.peer
async def test_a_real_opa_reads_tokens_the_same(tmp_path):
    policy = tmp_path / "policy.rego"
    policy.write_text(TOKENS)
    embedded = RegoProvider("ext", RegoOptions(PathSource(policy), "envoy/authz/allow", SECONDS, 1), ManualClock())
    await embedded.refresh()
    try:
        with opa_process(tmp_path, TOKENS) as url:
            async with asking(url) as remote:
                for text in tokens():
                    each = check(headers={"token": text})
                    ours, theirs = embedded(each), await remote(each)
                    ours = ours if isinstance(ours, Answer) else await ours
                    # Where OPA leaves an expression undefined the evaluation fails here: both deny.
                    assert bool(ours.denial) == bool(theirs.denial)
                    assert ours.changes == theirs.changes
    finally:
        await embedded.close()


TEXTS = """package envoy.authz

import input.attributes.request.http.headers as h

allow := {"allowed": true, "headers": {"value": json.marshal(value)}}

value := regex.match(h.pattern, h.text) if h.function == "match"

value := regex.split(h.pattern, h.text) if h.function == "split"

value := regex.find_all_string_submatch_n(h.pattern, h.text, -1) if h.function == "find"

value := regex.replace(h.text, h.pattern, "[$1]") if h.function == "replace"

value := glob.match(h.pattern, ["/", "."], h.text) if h.function == "glob"

value := [lower(h.text), upper(h.text)] if h.function == "case"

value := net.cidr_contains(concat("/", [h.text, h.pattern]), h.other) if h.function == "cidr"
"""
PATTERNS = [
    "a",
    r"\\d",
    r"\\w",
    r"\\s",
    r"\\b",
    r"\\W",
    "(a)",
    "(é|)",
    "[ab]",
    "[^a]",
    ".",
    "$",
    "^",
    "*",
    "+",
    "?",
    "|",
    "(?i)",
]
ADDRESSES = ["10.0.0.1", "10.1.2.3", "::ffff:10.1.2.3", "::1", "fe80::1", "010.1.1.1", "10.1", "fe80::1%eth0", "::", ""]


def texts():
    some = random.Random(SEED)
    for _ in range(REQUESTS):
        function = some.choice(["match", "split", "find", "replace", "glob", "case", "cidr"])
        if function == "cidr":
            given = {"pattern": some.choice(["0", "8", "32", "33", "104", "128", "", "a"])}
            given |= {"text": some.choice(ADDRESSES), "other": some.choice(ADDRESSES)}
        else:
            parts = list("ab/.*?[]!-{},é") if function == "glob" else PATTERNS
            pattern = "".join(some.choices(parts, k=some.randint(0, 6 if function == "glob" else 4)))
            given = {"pattern": pattern, "text": "".join(some.choices("ab/.1 é_ЖΣßİ²", k=some.randint(0, 6)))}
        yield check(headers={"function": function, **given})


@pytest.mark.peer
async def test_a_real_opa_reads_patterns_and_texts_the_same(tmp_path):
    policy = tmp_path / "policy.rego"
    policy.write_text(TEXTS)
    embedded = RegoProvider("ext", RegoOptions(PathSource(policy), "envoy/authz/allow", SECONDS, 1), ManualClock())
    await embedded.refresh()
    answers = []
    try:
        with opa_process(tmp_path, TEXTS) as url:
            async with asking(url) as remote:
                for each in texts():
                    ours, theirs = embedded(each), await remote(each)
                    ours = ours if isinstance(ours, Answer) else await ours
                    # Where OPA leaves an expression undefined the evaluation fails here: both deny.
                    assert bool(ours.denial) == bool(theirs.denial)
                    assert ours.changes == theirs.changes
                    answers.append(bool(ours.denial))
    finally:
        await embedded.close()
    assert 0.1 * REQUESTS < sum(answers) < 0.5 * REQUESTS


@pytest.mark.peer
async def test_a_decision_that_opa_does_not_have_denies(tmp_path):
    with opa_process(tmp_path, REGO) as url:
        for query, reason in (("envoy/authz/nothing", "undefined"), ("envoy/authz/roles", "not a boolean")):
            async with asking(url, query=query) as provider:
                answer = await provider(check())
                assert reason in answer.denial
                assert answer.undecided


class Server:
    """A server that answers every request with the same bytes, or not at all."""

    def __init__(self, answer):
        self.answer = answer
        self.requests = []
        self.open = self.most_open = 0
        self.gone = asyncio.Event()

    async def serve(self, reader, writer):
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(json.loads(await reader.readexactly(length)))
                if self.answer is None:
                    await self.gone.wait()
                    return
                writer.write(self.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def serving(answer):
    served = Server(answer)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    try:
        yield served, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        served.gone.set()
        server.close()
        await server.wait_closed()


def http(body, status="200 OK", headers=""):
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n{body}".encode()


def compressed(body):
    packed = gzip.compress(body.encode(), mtime=0)
    return f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(packed)}\r\n\r\n".encode() + packed


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (http("{}"), "its decision is undefined"),
        (http('{"result": null}'), "its decision is not a boolean or an object"),
        (http('{"result": "true"}'), "its decision is not a boolean or an object"),
        (http("true"), "OPA's answer is not a JSON object"),
        (http('{"result": NaN}'), "OPA's answer is not a JSON object"),
        (http("[" * 100_000), "OPA's answer is not a JSON object"),
        (http("x" * (MAX_ANSWER_BYTES + 1)), "OPA's answer is longer than"),
        (compressed('{"result": true}'), "OPA's answer is not a JSON object"),
        (http('{"result": true}', "500 Internal Server Error"), "OPA answered with the status 500"),
        (http('{"result": true}', "404 Not Found"), "OPA answered with the status 404"),
        (
            http('{"result": true}', "302 Found", "location: http://169.254.169.254/\r\n"),
            "OPA answered with the status 302",
        ),
        (b"garbage\r\n\r\n", "OPA cannot be asked"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", "OPA "),
    ],
)
async def test_an_answer_that_is_none_denies_with_the_reason(answer, reason):
    async with serving(answer) as (_, url), asking(url, seconds=1.0) as provider:
        found = await provider(check())
        assert found.denial.startswith(reason)
        assert found.undecided


async def test_opa_that_is_down_denies():
    async with serving(http("{}")) as (_, url):
        pass
    async with asking(url) as provider:
        found = await provider(check())
        assert found.denial.startswith("OPA cannot be asked")


async def test_opa_that_does_not_answer_denies_in_time():
    async with serving(None) as (_, url), asking(url, seconds=0.3, connections=2) as provider:
        answers = await asyncio.gather(*(provider(check()) for _ in range(10)))
        assert {answer.denial for answer in answers} == {"OPA did not answer within 300 ms"}


async def test_no_more_connections_are_opened_than_allowed():
    async with serving(None) as (served, url), asking(url, connections=2) as provider:
        asked = [asyncio.ensure_future(provider(check())) for _ in range(10)]
        await asyncio.wait(asked, timeout=1.0)
        assert (len(served.requests), served.most_open) == (2, 2)
        for each in asked:
            each.cancel()
        await asyncio.wait(asked)


async def test_more_requests_than_may_wait_are_denied_at_once(monkeypatch):
    monkeypatch.setattr("app.authz.backends.opa.MAX_WAITING", 3)
    async with serving(None) as (_, url), asking(url, seconds=0.3, connections=1) as provider:
        answers = await asyncio.gather(*(provider(check()) for _ in range(10)))
        assert sum("requests wait for OPA" in answer.denial for answer in answers) == 6


async def test_opa_is_sent_the_input_document():
    async with serving(http('{"result": true}')) as (served, url), asking(url) as provider:
        assert not (await provider(check("/a/b"))).denial
    assert served.requests[0]["input"]["parsed_path"] == ["a", "b"]


def with_id(path, number, **headers):
    message = check_request(path, headers={"x-request-id": str(number), **headers})
    attributes = message.attributes
    attributes.request.time.FromSeconds(number)
    attributes.request.http.id = str(number)
    attributes.source.address.socket_address.port_value = number
    return replace(request("/"), attributes=partial(attributes_of, attributes))


@pytest.mark.parametrize(
    ("body", "metadata"),
    [
        ('{"result": true, "decision_id": "d-1"}', {"decision_id": "d-1"}),
        ('{"result": false, "decision_id": "d-1"}', {"decision_id": "d-1"}),
        (
            '{"result": {"allowed": true, "dynamic_metadata": {"a": 1, "decision_id": "x"}}, "decision_id": "d-1"}',
            {"a": 1, "decision_id": "d-1"},
        ),
        ('{"result": {"allowed": true, "dynamic_metadata": {"a": 1}}, "decision_id": 7}', {"a": 1}),
        ('{"result": true, "decision_id": ""}', {}),
    ],
)
async def test_the_id_of_a_decision_is_in_the_metadata_where_opa_logs_decisions(body, metadata):
    async with serving(http(body)) as (_, url), asking(url) as provider:
        found = await provider(check())
        assert json.loads(found.changes.metadata or "{}") == metadata
        assert not found.undecided


async def test_answers_are_kept_where_that_is_allowed_and_for_as_long():
    clock = ManualClock()
    async with serving(http('{"result": true}')) as (served, url), asking(url, clock, cache_seconds=10) as provider:
        for number in range(1, 4):
            assert not (await provider(with_id("/a", number))).denial
        assert len(served.requests) == 1
        await provider(with_id("/b", 1))
        await provider(with_id("/a", 1, **{"x-user": "alice"}))
        assert len(served.requests) == 3
        clock.advance(10)
        await provider(with_id("/a", 1))
        assert len(served.requests) == 4


async def test_answers_are_kept_for_inputs_that_are_equal_in_the_parts_that_are_named():
    by = parts_of([("attributes", "request", "http", "headers", "x-user"), ("parsed_path",)])
    async with (
        serving(http('{"result": true}')) as (served, url),
        asking(url, cache_seconds=10, cache_by=by) as provider,
    ):
        await provider(with_id("/a", 1))
        await provider(with_id("/a?x=y", 1, other="header"))
        assert len(served.requests) == 1
        await provider(with_id("/a", 1, **{"x-user": "alice"}))
        await provider(with_id("/b", 1))
        assert len(served.requests) == 3


async def test_nothing_is_kept_where_it_is_not_allowed():
    async with serving(http('{"result": true}')) as (served, url), asking(url) as provider:
        await provider(with_id("/a", 1))
        await provider(with_id("/a", 1))
        assert len(served.requests) == 2


async def test_what_is_no_decision_is_not_kept():
    async with serving(http("{}")) as (served, url), asking(url, cache_seconds=10) as provider:
        await provider(with_id("/a", 1))
        served.answer = http('{"result": true}')
        assert not (await provider(with_id("/a", 1))).denial

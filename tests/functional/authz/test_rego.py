"""The Rego provider with its processes: decisions, reloads, and policies that do not end."""

import asyncio
import gzip
import io
import json
import tarfile
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from app.authz.backends.policy_source import PathSource
from app.authz.backends.rego import RegoOptions, RegoProvider
from app.authz.backends.rego_engine import Loaded
from app.authz.providers import Answer
from app.authz.rpc.document import attributes_of
from app.core.errors import InvalidInputError, UnavailableError
from tests.fakes.authz import request
from tests.fakes.checks import check_request
from tests.fakes.clock import ManualClock

# Enough for a machine that is busy with other tests.
SECONDS = 20.0

ALLOW_GET = """package envoy.authz

default allow := false

allow if input.attributes.request.http.method == "GET"
"""
ENDLESS = """package envoy.authz

allow if {
    input.parsed_path[0] == "loop"
    some i in numbers.range(1, 100000)
    some j in numbers.range(1, 100000)
    i * j == -1
}

allow if input.parsed_path[0] == "quick"
"""


def check(path="/", **given):
    message = check_request(path, **given)
    return replace(request(path), attributes=partial(attributes_of, message.attributes))


async def decided(provider, request):
    answer = provider(request)
    return answer if isinstance(answer, Answer) else await answer


class Provided:
    """A provider over a directory, closed after the test."""

    def __init__(self, directory):
        self.directory = directory
        self.made = []
        self.clock = ManualClock()

    def write(self, text, name="policy.rego"):
        (self.directory / name).write_text(text)

    async def start(self, text=None, path=None, **options):
        if text is not None:
            self.write(text)
        given: dict[str, Any] = {"query": "envoy/authz/allow", "seconds": SECONDS, "workers": 1, **options}
        provider = RegoProvider("ext", RegoOptions(PathSource(path or self.directory), **given), self.clock)
        self.made.append(provider)
        await provider.refresh()
        return provider


@pytest.fixture
async def rego(tmp_path):
    provided = Provided(tmp_path)
    yield provided
    for provider in provided.made:
        await provider.close()


async def test_a_policy_as_opa_envoys_users_write_it_decides(rego):
    provider = await rego.start(ALLOW_GET)
    assert not (await decided(provider, check())).denial
    denied = await decided(provider, check(method="POST"))
    assert (denied.denial, denied.undecided) == ("its policy denies the request", False)


async def test_an_object_decision_has_its_changes(rego):
    provider = await rego.start(
        'package envoy.authz\nallow := {"allowed": false, "headers": {"x-why": ["a", "b"]}, "body": "no", '
        '"http_status": 302, "dynamic_metadata": {"n": {1, 2}}}'
    )
    answer = await decided(provider, check())
    assert answer.changes.headers == (("x-why", "a"), ("x-why", "b"))
    assert (answer.changes.body, answer.changes.status) == ("no", 302)
    assert json.loads(answer.changes.metadata) == {"n": [1, 2]}


@pytest.mark.parametrize(
    ("rego_text", "reason"),
    [
        ("allow if input.nothing", "its decision is undefined"),
        ("allow := null", "its decision is undefined"),
        ('allow := "true"', "its decision is not a boolean or an object"),
        ("allow := 1", "its decision is not a boolean or an object"),
        ('allow := {"allowed": "yes"}', "its decision has no boolean 'allowed'"),
        ("allow := 1 if input.version\nallow := 2 if input.version", "its evaluation failed"),
        ("allow if to_number(input.parsed_path[0]) > 0", "its"),
    ],
)
async def test_a_decision_that_is_none_denies_with_the_reason(rego, rego_text, reason):
    provider = await rego.start(f"package envoy.authz\n{rego_text}\n")
    answer = await decided(provider, check())
    assert reason in answer.denial
    assert answer.undecided


async def test_one_input_does_not_decide_another(rego):
    provider = await rego.start(ALLOW_GET)
    answers = await asyncio.gather(*(decided(provider, check(method=method)) for method in ["GET", "POST"] * 50))
    assert [not answer.denial for answer in answers] == [True, False] * 50


async def test_an_evaluation_that_does_not_end_is_denied_and_others_are_decided(rego):
    provider = await rego.start(ENDLESS, seconds=1.0, workers=2)
    slow = asyncio.ensure_future(decided(provider, check("/loop")))
    assert not (await decided(provider, check("/quick"))).denial
    answer = await slow
    assert "within 1000 ms" in answer.denial or "too much time" in answer.denial
    assert answer.undecided
    # The process that was ended is started again.
    while True:
        if not (await decided(provider, check("/quick"))).denial:
            break


async def test_what_waits_behind_an_evaluation_that_does_not_end_is_decided_elsewhere_or_denied(rego):
    provider = await rego.start(ENDLESS, seconds=1.0)
    answers = await asyncio.gather(*(decided(provider, check(path)) for path in ["/loop", "/quick", "/quick"]))
    assert answers[0].undecided
    for answer in answers[1:]:
        assert not answer.denial or answer.undecided


async def test_an_evaluation_that_takes_too_much_memory_is_denied(rego):
    provider = await rego.start(
        'package envoy.authz\nallow if { input.parsed_path[0] == "big"; count(numbers.range(1, 300000000)) > 1 }\n'
        'allow if input.parsed_path[0] == "quick"'
    )
    assert (await decided(provider, check("/big"))).undecided
    assert not (await decided(provider, check("/quick"))).denial


async def test_policies_that_change_are_active_after_a_refresh_and_checks_go_on(rego):
    provider = await rego.start(ALLOW_GET)
    checks = [asyncio.ensure_future(decided(provider, check())) for _ in range(20)]
    rego.write(ALLOW_GET.replace("GET", "POST"))
    await provider.refresh()
    assert not any(answer.denial for answer in await asyncio.gather(*checks))
    assert (await decided(provider, check())).denial
    assert not (await decided(provider, check(method="POST"))).denial


@pytest.mark.parametrize(
    "wrong",
    [
        "nothing",
        "package envoy.authz\nallow { true }",
        "package envoy.authz\nallow if undefined_name",
        "package envoy.authz\nallow if no.such.function(1)",
        "package envoy.other\nallow if true",
    ],
)
async def test_policies_that_are_not_valid_leave_the_ones_before_active(rego, wrong):
    provider = await rego.start(ALLOW_GET)
    rego.write(wrong)
    for _ in range(2):
        with pytest.raises(InvalidInputError, match="provider ext: the policies"):
            await provider.refresh()
    assert not (await decided(provider, check())).denial


async def test_before_policies_are_loaded_every_request_is_denied(rego, tmp_path):
    with pytest.raises(InvalidInputError, match=r"has no \.rego file"):
        await rego.start()
    (provider,) = rego.made
    assert (await decided(provider, check())).denial == "its policies are not loaded yet"
    assert not provider.loaded
    rego.write(ALLOW_GET)
    await provider.refresh()
    assert not (await decided(provider, check())).denial


def bundle(path, files):
    with gzip.open(path, "wb") as packed, tarfile.open(fileobj=packed, mode="w:") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


async def test_a_bundle_is_loaded_with_its_data(rego, tmp_path):
    path = bundle(
        tmp_path / "bundle.tar.gz",
        {
            "/.manifest": json.dumps({"revision": "r7", "rego_version": 0}),
            "/roles/data.json": json.dumps({"admins": ["alice"]}),
            "/policy.rego": "package envoy.authz\nallow { data.roles.admins[_] == input.parsed_path[0] }\n",
        },
    )
    provider = await rego.start(path=path)
    assert not (await decided(provider, check("/alice"))).denial
    assert (await decided(provider, check("/mallory"))).denial


async def test_the_decision_may_be_a_package(rego):
    provider = await rego.start('package envoy.authz\nallowed := input.parsed_path[0] == "a"', query="envoy/authz")
    assert not (await decided(provider, check("/a"))).denial
    assert (await decided(provider, check("/b"))).denial


async def test_policies_that_are_gone_leave_the_ones_before_active(rego, tmp_path):
    path = tmp_path / "one.rego"
    path.write_text(ALLOW_GET)
    provider = await rego.start(path=path)
    path.unlink()
    with pytest.raises(UnavailableError):
        await provider.refresh()
    assert not (await decided(provider, check())).denial


CLOCK = 'package envoy.authz\nallow if { time.now_ns() > 0; input.attributes.request.http.method == "GET" }'


@pytest.fixture
def evaluations(monkeypatch):
    """The inputs that are evaluated in this process."""
    found = []

    def counted(self, text, reply=Loaded.reply):
        found.append(json.loads(text))
        return reply(self, text)

    monkeypatch.setattr(Loaded, "reply", counted)
    return found


async def test_an_input_has_only_what_the_policies_read(rego, evaluations):
    provider = await rego.start(ALLOW_GET)
    provider(check("/a?b=c", headers={"x-a": "b"}))
    assert evaluations[0]["attributes"]["request"]["http"] == {"path": "/a?b=c", "headers": {}, "method": "GET"}
    assert "parsed_path" not in evaluations[0]


async def test_a_body_that_is_not_what_it_says_denies_though_no_policy_reads_it(rego):
    provider = await rego.start(ALLOW_GET)
    message = check_request("/", headers={"content-type": "application/json"})
    message.attributes.request.http.body = "{"
    answer = await decided(provider, replace(request("/"), attributes=partial(attributes_of, message.attributes)))
    assert "the body is not JSON" in answer.denial


async def test_equal_inputs_are_evaluated_once_until_the_policies_change(rego, evaluations):
    provider = await rego.start(ALLOW_GET)
    for _ in range(3):
        assert not provider(check("/a")).denial
    assert provider(check("/a", method="POST")).denial
    assert len(evaluations) == 2
    rego.write(ALLOW_GET.replace("GET", "POST"))
    await provider.refresh()
    assert provider(check("/a")).denial


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 3), (10.0, 1)])
async def test_policies_that_look_at_the_time_are_evaluated_again_unless_the_settings_allow_it(
    rego, evaluations, seconds, count
):
    provider = await rego.start(CLOCK, cache_seconds=seconds)
    for _ in range(3):
        assert not provider(check("/a")).denial
    assert len(evaluations) == count
    rego.clock.advance(10.0)
    provider(check("/a"))
    assert len(evaluations) == count + 1


async def test_a_decision_of_a_process_is_kept_too(rego):
    provider = await rego.start(
        'package envoy.authz\nallow if { numbers.range(1, 2) == [1, 2]; input.attributes.request.http.method == "GET" }'
    )
    first = provider(check("/a"))
    assert not isinstance(first, Answer)
    assert not (await first).denial
    assert not provider(check("/a")).denial


async def test_a_request_too_large_to_be_evaluated_here_is_evaluated_by_a_process(rego, evaluations):
    provider = await rego.start(
        "package envoy.authz\nallow if { some a in input.parsed_body; some b in input.parsed_body; a == b; a == 7 }"
    )
    message = check_request("/", headers={"content-type": "application/json"})
    for number in (10, 1000):
        message.attributes.request.http.body = json.dumps([7] * number)
        each = replace(request("/"), attributes=partial(attributes_of, message.attributes))
        assert not (await decided(provider, each)).denial
    assert len(evaluations) == 1


async def test_a_panic_of_the_library_denies(rego, monkeypatch):
    class PanicException(BaseException):
        """As pyo3 raises it."""

    def panic(_self, _text):
        raise PanicException("no")

    provider = await rego.start(ALLOW_GET)
    monkeypatch.setattr(Loaded, "evaluate", panic)
    answer = provider(check("/"))
    assert answer.denial == "its evaluation failed: no"
    assert answer.undecided


async def test_data_that_would_take_the_place_of_a_rule_leaves_the_policies_before_active(rego):
    provider = await rego.start(ALLOW_GET)
    rego.write('{"envoy": {"authz": {"allow": true}}}', "data.json")
    with pytest.raises(InvalidInputError, match=r"the data has something at data\.envoy\.authz\.allow"):
        await provider.refresh()
    assert (await decided(provider, check(method="POST"))).denial

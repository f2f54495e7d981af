"""Policy engines of third parties: small packages, installed into a directory on the path."""

import asyncio
import inspect
import sys
import textwrap

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from app.authz.backends import plugin
from app.authz.backends.plugin import PluginOptions, PluginProvider
from app.authz.rpc.check import AuthorizationRpc
from app.core.clock import SystemClock
from app.core.errors import InvalidInputError, UnavailableError
from app.main.parts import make_parts
from app.settings.load import load
from tests.fakes.authz import policy
from tests.fakes.checks import check_request, context, policy_service
from tests.support.serving import eventually_async

GOOD = """
import pathlib

class Engine:
    def __init__(self, name, options):
        self.name, self.options = name, options

    async def decide(self, document):
        http = document["attributes"]["request"]["http"]
        document.clear()
        if http["path"] == "/headers":
            return {"allowed": True, "headers": {"x-by": self.name}}
        if http["path"] == "/teapot":
            return {"allowed": False, "http_status": 404, "body": "nothing here"}
        return http["method"] in self.options["methods"]

    async def close(self):
        pathlib.Path(self.options["closed"]).touch()
"""
CUSTOM = policy("{action: CUSTOM, provider: {name: mine}, rules: [{}]}")
OPTIONS = {"methods": ["GET"]}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package with one module and one entry point, as pip would."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(code, name="tiny", entry="engine_of_tiny:Engine", dist="meshward-tiny"):
        module = entry.partition(":")[0]
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{dist.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[meshward.providers]\n{name} = {entry}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    yield install
    for module in [name for name in sys.modules if name.startswith("engine_of_")]:
        del sys.modules[module]


async def rpc_with(provider):
    await provider.refresh()
    service = await policy_service(CUSTOM, providers={"mine": provider})
    return AuthorizationRpc(service, expose_decision=False, trusted_hops=0)


async def answer(rpc, path="/", method="GET"):
    found = rpc.Check(check_request(path, method=method).SerializeToString(), context())
    response = await found if inspect.isawaitable(found) else found
    return CheckResponse.FromString(response.SerializeToString())


async def reason_of(provider):
    await provider.refresh()
    service = await policy_service(CUSTOM, providers={"mine": provider})
    rpc = AuthorizationRpc(service, expose_decision=True, trusted_hops=0)
    response = await answer(rpc)
    assert response.status.code == 7
    assert response.denied_response.status.code == 403
    return response.denied_response.body


async def test_a_plugin_decides_in_the_forms_of_opa_envoy(install, tmp_path):
    install(GOOD)
    provider = PluginProvider("mine", PluginOptions("tiny", OPTIONS | {"closed": str(tmp_path / "closed")}))
    rpc = await rpc_with(provider)
    assert (await answer(rpc)).status.code == 0
    assert (await answer(rpc, method="POST")).status.code == 7
    allowed = await answer(rpc, "/headers")
    assert [(each.header.key, each.header.value) for each in allowed.ok_response.headers] == [("x-by", "mine")]
    denied = (await answer(rpc, "/teapot")).denied_response
    assert (denied.status.code, denied.body) == (404, "nothing here")
    await provider.close()
    assert (tmp_path / "closed").exists()


async def test_a_plugin_is_loaded_only_if_the_settings_name_it_and_refused_at_the_start(install, tmp_path):
    install("raise ImportError('no such library')")
    data = tmp_path / "data"
    variables = {"MESHWARD_DATA_DIR": str(data)}
    assert make_parts(load(variables).settings, SystemClock()).providers == {}
    assert "engine_of_tiny" not in sys.modules
    named = variables | {"MESHWARD_AUTHZ_PROVIDERS": '{"mine": {"engine": "plugin", "plugin": "tiny"}}'}
    with pytest.raises(
        InvalidInputError, match=r"authz.providers.mine: the plug-in tiny \(meshward-tiny 1.2\) cannot be "
    ):
        make_parts(load(named).settings, SystemClock())


BAD = {
    "no function of that name": ("", "AttributeError"),
    "not callable": ("Engine = 1", "TypeError"),
    "raises": ("def Engine(name, options): raise ValueError(options['key'])", "KeyError: 'key'"),
    "no decide": ("class Engine:\n    def __init__(self, name, options): pass", "has no 'async def decide'"),
    "decide that blocks": (
        "class Engine:\n    def __init__(self, name, options): pass\n    def decide(self, document): return True",
        "has no 'async def decide'",
    ),
    "syntax": ("class", "SyntaxError"),
}


@pytest.mark.parametrize(("code", "problem"), BAD.values(), ids=BAD)
def test_a_plugin_that_cannot_be_used_is_refused_with_the_reason(install, code, problem):
    install(code)
    with pytest.raises(InvalidInputError) as refused:
        PluginProvider("mine", PluginOptions("tiny"))
    assert problem in refused.value.message


def test_a_plugin_that_is_not_installed_or_twice_is_refused(install):
    with pytest.raises(InvalidInputError, match="no package with the entry point group"):
        PluginProvider("mine", PluginOptions("tiny"))
    install(GOOD)
    with pytest.raises(InvalidInputError, match="'tyni': installed are tiny"):
        PluginProvider("mine", PluginOptions("tyni"))
    install(GOOD, entry="engine_of_other:Engine", dist="meshward-other")
    with pytest.raises(InvalidInputError, match="several packages have a plug-in 'tiny'"):
        PluginProvider("mine", PluginOptions("tiny"))


def engine(body, more=""):
    lines = textwrap.indent(textwrap.dedent(body), " " * 8)
    head = "    def __init__(self, name, options):\n        pass\n\n    async def decide(self, document):"
    return f"import asyncio\n\nclass Engine:\n{head}\n{lines}\n{more}"


WRONG = {
    "raises": ("raise RuntimeError('boom')", "its plug-in raised RuntimeError: boom"),
    "ends the process": ("raise SystemExit(1)", "its plug-in raised SystemExit: 1"),
    "is interrupted": ("raise KeyboardInterrupt", "its plug-in raised KeyboardInterrupt"),
    "cancels itself": ("raise asyncio.CancelledError", "its plug-in was cancelled"),
    "waits for ever": ("await asyncio.Event().wait()", "its plug-in did not decide within 20 ms"),
    "does not let go": (
        """
        for _ in range(20):
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                pass
        """,
        "its plug-in did not decide within 20 ms",
    ),
    "nothing": ("return None", "is not a boolean or an object"),
    "a text": ("return 'true'", "is not a boolean or an object"),
    "a number": ("return 1", "is not a boolean or an object"),
    "an object of its own": ("return self", "its plug-in returned what is no JSON"),
    "no number": ("return {'allowed': True, 'x': float('nan')}", "its plug-in returned what is no JSON"),
    "in itself": ("found = {}\nfound['allowed'] = found\nreturn found", "its plug-in returned what is no JSON"),
    "too much": ("return {'allowed': True, 'body': 'x' * 100_000}", "its plug-in returned a decision longer than"),
    "no boolean": ("return {'allowed': 'yes'}", "has no boolean 'allowed'"),
}


@pytest.mark.parametrize(("body", "reason"), WRONG.values(), ids=WRONG)
async def test_whatever_goes_wrong_in_a_plugin_denies_with_the_reason(install, body, reason):
    install(engine(body))
    provider = PluginProvider("mine", PluginOptions("tiny", seconds=0.02))
    assert reason in await reason_of(provider)
    await provider.close()
    await asyncio.gather(*provider._deciding, return_exceptions=True)


async def test_a_plugin_that_takes_other_arguments_denies(install):
    install(engine("return True").replace("self, document", "self"))
    assert "its plug-in raised TypeError" in await reason_of(PluginProvider("mine", PluginOptions("tiny")))


async def test_a_plugin_that_is_not_ready_denies_and_says_why(install):
    refresh = "    async def refresh(self):\n        raise OSError('no policies at /nowhere')\n"
    install(engine("return True", refresh))
    provider = PluginProvider("mine", PluginOptions("tiny"))
    with pytest.raises(UnavailableError, match="mine: its plug-in tiny raised OSError: no policies at /nowhere"):
        await provider.refresh()
    assert not provider.loaded
    service = await policy_service(CUSTOM, providers={"mine": provider})
    response = await answer(AuthorizationRpc(service, expose_decision=True, trusted_hops=0))
    assert "its plug-in is not ready" in response.denied_response.body


async def test_a_refresh_that_hangs_is_given_up(install, monkeypatch):
    monkeypatch.setattr(plugin, "REFRESH_SECONDS", 0.02)
    install(engine("return True", "    async def refresh(self):\n        await asyncio.Event().wait()\n"))
    provider = PluginProvider("mine", PluginOptions("tiny"))
    with pytest.raises(UnavailableError, match="was not done within"):
        await provider.refresh()


async def test_of_a_crowd_the_last_are_denied_at_once(install, monkeypatch):
    monkeypatch.setattr(plugin, "MAX_DECIDING", 2)
    install(engine("await asyncio.Event().wait()"))
    provider = PluginProvider("mine", PluginOptions("tiny", seconds=1.0))
    rpc = await rpc_with(provider)
    waiting = [asyncio.ensure_future(answer(rpc)) for _ in range(2)]

    async def both_wait():
        return len(provider._deciding) == 2

    await eventually_async(both_wait, "the first two to be asked")
    assert (await answer(rpc)).status.code == 7
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.gather(*provider._deciding, return_exceptions=True)
    assert not provider._deciding

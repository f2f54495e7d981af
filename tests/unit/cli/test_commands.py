"""The commands, run in this process: what they print and with which status they end."""

import asyncio
import json

import pytest

from app.ca.backends.disk import DiskKeyStore
from app.ca.model import KeyAlgorithm
from app.cli import cli
from app.cli.failures import guarded
from tests.assets.request_authentications import credential_authentication, request_authentication
from tests.fakes.authz import policy


@pytest.fixture
def meshward(tmp_path, monkeypatch, capsys):
    """Run `meshward` with arguments in an empty directory; return status, output and errors."""
    monkeypatch.chdir(tmp_path)
    for name in ("MESHWARD_CONFIG", "MESHWARD_ADMIN_TOKEN", "MESHWARD_ADMIN_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments):
        status = guarded(lambda: cli(list(arguments), prog_name="meshward"))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  action: ALLOW
  rules: [{from: [{source: {principals: ["cluster.local/ns/shop/sa/web"]}}]}]
"""
ODD_POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: odd, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/a/../b]}}]}]}
"""
NO_RULES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: none, namespace: istio-system}
spec: {selector: {matchLabels: {app: x}}}
"""
LIMITS = "domain: mesh\ndescriptors: [{key: path, rate_limit: {unit: minute, requests_per_unit: 5}}]\n"


def test_the_version_is_printed(meshward):
    status, out, _ = meshward("version")
    assert status == 0
    assert out.strip()


@pytest.mark.parametrize("arguments", [["nonsense"], ["config"], ["token", "create"], ["db", "upgrade", "--nonsense"]])
def test_wrong_usage_ends_with_2(meshward, arguments):
    assert meshward(*arguments)[0] == 2


def test_valid_settings_are_reported(meshward):
    assert meshward("config", "check")[:2] == (0, "the settings are valid\n")


def test_invalid_settings_are_reported_in_one_line(meshward, monkeypatch):
    monkeypatch.setenv("MESHWARD_LOG_LEVEL", "loud")
    status, out, err = meshward("config", "check")
    assert (status, out) == (1, "")
    assert err.startswith("meshward: settings are wrong: log.level (from MESHWARD_LOG_LEVEL): ")
    assert err.count("\n") == 1


def test_settings_are_shown_for_people_and_for_programs(meshward, tmp_path):
    (tmp_path / "mesh.toml").write_text('trust_domain = "mesh.example"\n')
    assert 'trust_domain = "mesh.example"  # mesh.toml' in meshward("config", "show", "--config", "mesh.toml")[1]
    shown = json.loads(meshward("config", "show", "--config", "mesh.toml", "--output", "json")[1])
    assert shown["trust_domain"] == "mesh.example"


def test_the_admin_token_is_made_shown_and_rotated(meshward, tmp_path):
    status, out, _ = meshward("admin", "token")
    assert (status, out) == (0, ".meshward/admin.token\n")
    first = meshward("admin", "token", "--show")[1]
    assert first.strip() == (tmp_path / ".meshward/admin.token").read_text().strip()
    second = meshward("admin", "token", "--show", "--rotate")[1]
    assert first != second == meshward("admin", "token", "--show")[1]


def test_an_admin_token_that_others_can_read_is_refused(meshward, tmp_path):
    meshward("admin", "token")
    (tmp_path / ".meshward/admin.token").chmod(0o644)
    status, out, err = meshward("admin", "token", "--show")
    assert (status, out) == (1, "")
    assert "chmod 600" in err


def test_the_passphrase_of_keys_is_changed(meshward, tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(f"the {name} passphrase\n")
    asyncio.run(DiskKeyStore(tmp_path / ".meshward/keys").create(KeyAlgorithm.P256))
    (key,) = (tmp_path / ".meshward/keys").iterdir()
    assert "1 of 1 keys were rewritten" in meshward("keys", "passphrase", "--new-file", "old")[1]
    assert b"ENCRYPTED" in key.read_bytes()
    status, _, err = meshward("keys", "passphrase", "--old-file", "new", "--plain")
    assert (status, "the passphrase is wrong" in err) == (1, True)
    assert "1 of 1 keys" in meshward("keys", "passphrase", "--old-file", "old", "--new-file", "new")[1]
    assert "0 of 1 keys" in meshward("keys", "passphrase", "--old-file", "old", "--new-file", "new")[1]
    assert meshward("keys", "passphrase", "--old-file", "new", "--plain")[0] == 0
    assert b"ENCRYPTED" not in key.read_bytes()
    assert meshward("keys", "passphrase")[0] == 2
    assert meshward("keys", "passphrase", "--new-file", "new", "--plain")[0] == 2


def test_valid_documents_are_listed(meshward, tmp_path):
    (tmp_path / "a.yaml").write_text(POLICY)
    (tmp_path / "q.yaml").write_text(LIMITS)
    assert meshward("policy", "check", "a.yaml")[:2] == (0, "a.yaml: shop/cart is valid\n")
    assert meshward("quota", "check", "q.yaml")[:2] == (0, "q.yaml: mesh is valid\n")


def test_documents_of_every_kind_can_be_in_one_file(meshward, tmp_path):
    (tmp_path / "a.yaml").write_text(POLICY + request_authentication() + credential_authentication())
    status, out, _ = meshward("policy", "check", "a.yaml")
    assert (status, sorted(out.splitlines())) == (
        0,
        ["a.yaml: shop/c is valid", "a.yaml: shop/cart is valid", "a.yaml: shop/r is valid"],
    )
    (tmp_path / "b.yaml").write_text(credential_authentication({"apiKeys": {}}))
    status, _, err = meshward("policy", "check", "b.yaml")
    assert status == 1
    assert "spec.rules[0].apiKeys: is not a field here" in err
    (tmp_path / "c.yaml").write_text(POLICY.replace("kind: AuthorizationPolicy", "kind: [AuthorizationPolicy]"))
    status, _, err = meshward("policy", "check", "c.yaml")
    assert (status, "kind: must be a string, not a list" in err) == (1, True)


def test_a_label_of_an_api_key_is_a_pair(meshward):
    status, _, err = meshward("api-key", "create", "--subject", "a", "--label", "gold")
    assert (status, "--label: 'gold' is not KEY=VALUE" in err) == (1, True)
    status, _, err = meshward("api-key", "create", "--subject", "a", "--ttl", "soon")
    assert (status, "--ttl" in err) == (1, True)


def test_a_value_that_matches_nothing_is_warned_of(meshward, tmp_path):
    (tmp_path / "a.yaml").write_text(ODD_POLICY)
    warning = (
        "  warning: line 5: spec.rules[0].to[0].operation.paths[0]: "
        "paths are compared as Envoy normalises them, and it makes '/b' of '/a/../b'"
    )
    for options in ((), ("--show",)):
        status, out, _ = meshward("policy", "check", *options, "a.yaml")
        assert (status, out.splitlines()[-1]) == (0, warning)


def test_a_policy_is_printed_as_it_is_evaluated(meshward, tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text(POLICY)
    monkeypatch.setenv("MESHWARD_TRUST_DOMAIN", "example.org")
    status, out, _ = meshward("policy", "check", "--show", "a.yaml")
    assert status == 0
    assert out.splitlines() == [
        "a.yaml: shop/cart is valid",
        "  ALLOW for workloads of shop",
        "  rules[0]: source.principal in [example.org/ns/shop/sa/web]",
    ]
    (tmp_path / "b.yaml").write_text(NO_RULES)
    assert meshward("policy", "check", "--show", "b.yaml")[1].splitlines()[1:] == [
        "  ALLOW for workloads of every namespace with app=x",
        "  no rules: matches no request",
    ]


def test_with_settings_a_policy_has_to_name_one_of_their_providers(meshward, tmp_path):
    (tmp_path / "m.toml").write_text('[authz.providers.ext]\nengine = "cel"\nexpression = "true"\n')
    (tmp_path / "a.yaml").write_text(policy("{action: CUSTOM, provider: {name: ext}, rules: [{}]}"))
    (tmp_path / "b.yaml").write_text(policy("{action: CUSTOM, provider: {name: other}, rules: [{}]}"))
    assert meshward("policy", "check", "b.yaml")[0] == 0
    assert meshward("policy", "check", "--config", "m.toml", "a.yaml")[:2] == (0, "a.yaml: shop/p is valid\n")
    status, _, err = meshward("policy", "check", "--config", "m.toml", "b.yaml")
    assert (status, "spec.provider.name: 'other' is not a provider in the settings: use one of ext" in err) == (1, True)


def test_invalid_documents_are_reported_with_file_and_path(meshward, tmp_path):
    (tmp_path / "a.yaml").write_text(POLICY)
    (tmp_path / "b.yaml").write_text(POLICY.replace("principals", "principal"))
    (tmp_path / "c.yaml").write_text("a: [")
    (tmp_path / "d.yaml").write_text("")
    status, _, err = meshward("policy", "check", "a.yaml", "b.yaml", "c.yaml", "d.yaml")
    assert status == 1
    assert "b.yaml: line 7: spec.rules[0].from[0].source" in err
    assert "c.yaml: " in err
    assert "d.yaml: there is no document: send at least one policy" in err
    assert "a.yaml: spec" not in err
    (tmp_path / "q.yaml").write_text(LIMITS.replace("minute", "fortnight"))
    status, _, err = meshward("quota", "check", "q.yaml")
    assert status == 1
    assert err.startswith("meshward: q.yaml: line 2: descriptors[0].rate_limit.unit: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["policy", "quota"])
def test_a_file_that_cannot_be_read_is_named_once(meshward, command):
    status, _, err = meshward(command, "check", "missing.yaml")
    assert status == 1
    assert err == "meshward: cannot read missing.yaml: No such file or directory\n"


@pytest.mark.parametrize("ttl", ["3600", "0s", "500ms", "tomorrow"])
def test_an_invalid_lifetime_is_refused_before_a_request_is_sent(meshward, ttl):
    meshward("admin", "token")
    status, _, err = meshward("token", "create", "--spiffe-id", "spiffe://cluster.local/a", "--ttl", ttl)
    assert status == 1
    assert err.startswith("meshward: --ttl: must be ")


def test_without_a_token_the_error_names_its_path(meshward):
    status, _, err = meshward("entry", "list")
    assert status == 1
    assert ".meshward/admin.token" in err

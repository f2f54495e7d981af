"""What the documents say of names is compared with the code, so that they cannot drift apart unseen."""

import ast
import asyncio
import re
import shlex
from typing import Any

import pytest
import yaml
from typer.main import get_command

from app.authz.rules.credential_rules import CREDENTIAL_AUTHENTICATION_KIND
from app.authz.rules.opa import read_decision
from app.authz.rules.parse import POLICY_KIND
from app.cli import cli
from app.core.clock import SystemClock
from app.core.errors import InvalidInputError
from app.documents.parser import parse_documents
from app.envoy.bootstrap import bootstrap
from app.envoy.sidecar import Protocol, sidecar_of
from app.main.parts import make_parts
from app.main.routes import route_table
from app.quota.rules.parse import QUOTA_KIND
from app.settings import load
from app.settings.load import OTHER_VARIABLES, variable_of
from app.settings.show import as_values
from app.telemetry.metrics import Metrics
from tests.unit.docs.pages import GUIDE, PAGES, ROOT, anchors, blocks, links, prose, rows, typed, words

LOG_METHODS = {"debug", "info", "warning", "error", "exception"}


def named(path):
    return str(path.relative_to(ROOT))


def leaves(command, path=()):
    """Yield every command that does something, by its words."""
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from leaves(below, (*path, name))
    else:
        yield path, command


COMMANDS = dict(leaves(get_command(cli)))


def command_of(arguments):
    """Return the longest command that the words start with."""
    for length in (2, 1):
        if tuple(arguments[:length]) in COMMANDS:
            return tuple(arguments[:length])
    return None


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_between_the_documents_resolves(page):
    broken = []
    for link in links(page):
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_file_of_ours_that_a_document_names_exists(page):
    ours = re.compile(r"(?:app|bench|docker|docs|migrations|proto|tests)/[\w./-]*")
    missing = [word for word in words(page) if ours.fullmatch(word) and not (ROOT / word).exists()]
    assert missing == []


def test_every_page_is_reached_from_the_readme():
    seen, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        seen.add(page)
        targets = ((page.parent / link.partition("#")[0]).resolve() for link in links(page) if ".md" in link)
        ahead += [target for target in targets if target not in seen]
    assert seen == set(PAGES)


def test_the_settings_page_has_each_setting_with_its_variable_and_its_default_and_no_other():
    def spelled(value):
        match value:
            case None:
                return "not set"
            case bool():
                return f"`{str(value).lower()}`"
            case list():
                return ", ".join(f"`{item}`" for item in value) or "none"
            case _:
                return f"`{value}`"

    defaults = as_values(load({}))
    expected = {(f"`{key}`", f"`{variable_of(key)}`", spelled(value)) for key, value in defaults.items()}
    assert {
        tuple(row[:3]) for row in rows(GUIDE / "settings.md") if len(row) == 4 and row[0].startswith("`")
    } == expected


def test_the_settings_page_has_the_variables_that_are_no_settings():
    assert {row[0].strip("`") for row in rows(GUIDE / "settings.md") if len(row) == 2} >= OTHER_VARIABLES


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_variable_that_a_document_names_exists(page):
    known = {variable_of(key) for key in as_values(load({}))} | OTHER_VARIABLES
    mentioned = set(re.findall(r"\bMESHWARD_[A-Z_]*[A-Z]\b", page.read_text()))
    # A mistyped one is shown on purpose; the others are Kubernetes'.
    assert mentioned - known <= {"MESHWARD_MESH_TLS_BNID", "MESHWARD_SERVICE_HOST", "MESHWARD_PORT"}


def test_the_settings_file_that_is_shown_is_valid(tmp_path):
    for number, text in enumerate(blocks(GUIDE / "settings.md", "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        load({}, file)


def test_the_operations_page_has_each_metric_with_its_labels_and_no_other():
    collectors = [each for each in vars(Metrics()).values() if hasattr(each, "collect")]
    families = [family for each in collectors for family in each.collect()]
    exposed = {line.split()[2] for line in Metrics().render().decode().splitlines() if line.startswith("# TYPE")}
    labels = {family.name: family._labelnames for family in families}
    expected = {
        (f"`{name}`", ", ".join(f"`{label}`" for label in labels[name.removesuffix("_total")])) for name in exposed
    }
    assert {tuple(row[:2]) for row in rows(GUIDE / "operations.md") if row[0].startswith("`meshward_")} == expected


def logged_events():
    for file in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            match node.func, node.args[0]:
                case ast.Attribute(attr=name), ast.Constant(value=str(event)) if name in LOG_METHODS:
                    yield event
                case ast.Name(id="log") | ast.IfExp(), ast.Constant(value=str(event)):
                    yield event
            for keyword in node.keywords:
                # Events of the loop that logs them.
                if keyword.arg in {"failed", "recovered"} and isinstance(keyword.value, ast.Constant):
                    yield keyword.value.value


def test_the_operations_page_has_each_event_that_is_logged_and_no_other():
    level = re.compile(r"\b(info|warning|error)\b")
    table = [row for row in rows(GUIDE / "operations.md") if len(row) == 3 and level.search(row[1])]
    told = {event for row in table for event in re.findall(r"`(\w+)`", row[0])}
    # The agent's two names of what keeps it from renewing are passed to the function that logs them.
    assert told == set(logged_events()) | {"control_plane_away", "certificate_refused"}


def test_the_admin_api_page_has_each_route_and_no_other():
    parts = make_parts(load({}).settings, SystemClock())
    frame = {"GET /healthz", "GET /readyz", "GET /healthcheck", "GET /metrics", "GET /openapi.json"}
    expected = {f"{route.method} {route.path.replace(':path', '')}" for route in route_table(parts)} | frame
    found = {row[0].strip("`") for row in rows(GUIDE / "admin-api.md")}
    assert {cell for cell in found if re.match(r"(GET|POST|PUT|DELETE) /", cell)} == expected


def test_the_admin_api_page_has_each_command():
    told = set()
    for word in words(GUIDE / "admin-api.md"):
        told.add(command_of(word.removeprefix("meshward ").split()))
    assert set(COMMANDS) <= told


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_that_a_document_shows_exists_with_its_options(page):
    shown = [*typed(page), *(word for word in words(page) if word.startswith("meshward "))]
    for line in shown:
        for call in re.findall(r"(?:^|[\s(/])meshward ([a-z][^|;&)<>]*)", line):
            arguments = shlex.split(call.replace("…", ""), comments=True)
            command = command_of(arguments)
            assert command, f"meshward {call}"
            options = {option for parameter in COMMANDS[command].params for option in parameter.opts}
            given = {word for word in arguments if word.startswith("--")}
            assert given <= options | {"--help"}, f"meshward {call}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_make_target_that_a_document_names_exists(page):
    makefile = (ROOT / "Makefile").read_text()
    shown = [*typed(page), *words(page)]
    for target in {target for text in shown for target in re.findall(r"^make ([a-z]+)", text)}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


SIDECAR: dict[str, Any] = {
    "spiffe_id": "spiffe://cluster.local/ns/shop/sa/cart",
    "sds_socket": "/run/meshward/cart.sock",
    "control_plane": "mesh.example.org:15012",
    "control_plane_name": "",
    "admin": None,
    "quota_domain": "shop",
    "inbound": ["0.0.0.0:15006=127.0.0.1:8080"],
    "outbound": ["127.0.0.1:15001=10.0.0.7:15006=spiffe://cluster.local/ns/shop/sa/stock"],
    "label": ["app=cart"],
}


def mappings_in(value):
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from mappings_in(item)
    if isinstance(value, list):
        for item in value:
            yield from mappings_in(item)


@pytest.mark.parametrize(
    "text", [text for text in blocks(GUIDE / "envoy.md", "yaml") if "not in the bootstrap" not in text]
)
def test_each_part_of_an_envoy_configuration_is_one_that_the_generator_writes(text):
    written = [mapping for check in Protocol for mapping in mappings_in(bootstrap(sidecar_of(**SIDECAR, check=check)))]
    shown = yaml.safe_load(text)
    for part in shown if isinstance(shown, list) else [shown]:
        assert any(part.items() <= mapping.items() for mapping in written if part.keys() <= mapping.keys())


def known_fields(error):
    (violation,) = [item for item in error.violations if "zzz" in item.path]
    return set(re.findall(r"[A-Za-z_]\w*", re.split(r"known are |the fields are ", violation.problem)[1]))


def test_the_policy_page_has_each_field_of_a_source_and_of_an_operation():
    told = set(re.findall(r"\w+", prose(GUIDE / "authorization-policy.md")))
    for part, inner in (("from", "source"), ("to", "operation")):
        document = {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "a"},
            "spec": {"rules": [{part: [{inner: {"zzz": []}}]}]},
        }
        with pytest.raises(InvalidInputError) as refused:
            POLICY_KIND.parse([document])
        assert known_fields(refused.value) - {"zzz"} <= told


def test_the_quota_page_has_each_field():
    told = set(re.findall(r"\w+", prose(GUIDE / "quota.md")))
    for descriptor in ({"key": "k", "zzz": 1}, {"key": "k", "rate_limit": {"unlimited": True, "zzz": 1}}):
        with pytest.raises(InvalidInputError) as refused:
            QUOTA_KIND.parse([{"domain": "d", "descriptors": [descriptor]}])
        assert known_fields(refused.value) <= told


def test_the_quota_configuration_that_is_shown_is_valid():
    (shown,) = [text for text in blocks(GUIDE / "quota.md", "yaml") if text.startswith("domain:")]
    assert QUOTA_KIND.parse([yaml.safe_load(shown)])[0].domain == "shop"


def test_the_documents_that_the_readme_writes_are_valid():
    console = "\n".join(blocks(ROOT / "README.md", "console"))
    written = re.findall(r"<<'END'\n(.*?)^END$", console, re.MULTILINE | re.DOTALL)
    policy, limits = (parse_documents(text.encode()) for text in written)
    assert [found.key for found in POLICY_KIND.parse(policy)] == ["shop/cart-readers"]
    assert QUOTA_KIND.parse([limits[0]])[0].domain == "shop"


def test_decisions_have_numbers_of_their_own_and_are_listed():
    pages = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    listed = links(ROOT / "docs" / "adr" / "README.md")
    assert [page.name for page in pages] == listed
    assert len({page.name[:4] for page in pages}) == len(pages)
    for page in pages:
        assert page.read_text().startswith(f"# {int(page.name[:4])}. ")


def test_the_image_installs_the_versions_that_are_tested():
    def versions(file):
        return set(re.findall(r"^[a-z0-9.-]+==\S+", (ROOT / file).read_text(), re.MULTILINE))

    assert versions("docker/requirements.lock")
    assert versions("docker/requirements.lock") <= versions("requirements.lock")


def test_the_page_of_credentials_has_each_field_and_valid_documents():
    page = GUIDE / "credential-authentication.md"
    told = set(re.findall(r"\w+", prose(page)))
    for source in ("apiKey", "oauth2Introspection", "kubernetesTokenReview"):
        for rule in ({source: {"zzz": 1}}, {source: {}, "zzz": 1}):
            document = {"apiVersion": "meshward.io/v1", "kind": "CredentialAuthentication", "metadata": {"name": "a"}}
            with pytest.raises(InvalidInputError) as refused:
                CREDENTIAL_AUTHENTICATION_KIND.parse([document | {"spec": {"rules": [rule]}}])
            assert known_fields(refused.value) <= told
    credentials, policy = (parse_documents(text.encode()) for text in blocks(page, "yaml"))
    assert CREDENTIAL_AUTHENTICATION_KIND.parse(credentials)[0].rules
    assert POLICY_KIND.parse(policy)[0].rules


@pytest.mark.parametrize("page", ["credential-authentication.md", "engines.md"])
def test_the_settings_that_a_page_shows_are_valid(page, tmp_path):
    for number, text in enumerate(blocks(GUIDE / page, "toml")):
        if "[project]" not in text:  # a package's own
            file = tmp_path / f"{number}.toml"
            file.write_text(text)
            load({}, file)


def test_the_plugin_that_the_page_shows_decides():
    space: dict[str, Any] = {}
    (shown,) = blocks(GUIDE / "engines.md", "python")
    exec(shown, space)
    plugin = space["Relations"]("relations", {"store": "shop"})
    for method, allowed in (("GET", True), ("POST", False)):
        document = {"attributes": {"request": {"http": {"method": method}}}}
        decision = asyncio.run(plugin.decide(document))
        assert read_decision(decision).denial == "" if allowed else read_decision(decision).changes.status == 403

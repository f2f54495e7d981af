"""Policies whose paths are spelled differently from normalised requests."""

import pytest

from app.authz.rpc.check import AuthorizationRpc
from tests.fakes.authz import policy
from tests.fakes.checks import check_answer, check_request, policy_service


async def deciding(action: str, pattern: str) -> AuthorizationRpc:
    spec = f"{{action: {action}, rules: [{{to: [{{operation: {{paths: ['{pattern}']}}}}]}}]}}"
    return AuthorizationRpc(await policy_service(policy(spec)))


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/admin%2fusers", "/admin%2fusers"),
        ("/admin%2fusers", "/admin%2Fusers"),
        ("/%61dmin", "/admin"),
        ("/%61dmin*", "/%61dmin/users"),
        ("*/caf%c3%a9", "/menu/caf%C3%A9"),
        ("/café", "/caf%c3%a9"),
        ("/two words", "/two%20words"),
        ("/%61dmin/{*}", "/admin/users"),
        ("/caf%c3%a9/{**}", "/caf%C3%A9/menu"),
    ],
)
async def test_a_denied_path_is_denied_however_the_policy_spells_it(pattern, path):
    rpc = await deciding("DENY", pattern)
    assert check_answer(rpc, check_request("/elsewhere")).status.code == 0
    assert check_answer(rpc, check_request(path)).status.code == 7


@pytest.mark.parametrize(
    "path",
    ["/a%20b", "/a%2fb", "/a%2Fb", "/caf%c3%a9", "/me%40here", "/100%25", "/a%252fb", "/a/%2561", "/%7Bx%7D"],
)
async def test_a_path_is_allowed_where_the_policy_spells_it_the_same(path):
    rpc = await deciding("ALLOW", path)
    assert check_answer(rpc, check_request(path)).status.code == 0


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/%61bout", "/about"),
        ("/café", "/caf%c3%a9"),
        ("/caf%C3%A9", "/caf%c3%a9"),
        ("/a b", "/a%20b"),
        ("/me%40here", "/me@here"),
        ("/a%2Fb", "/a/b"),
        ("/a%2Fb", "/a%2fb"),
        ("/a%2A", "/axyz"),
    ],
)
async def test_a_path_is_not_allowed_where_the_policy_spells_it_differently(pattern, path):
    rpc = await deciding("ALLOW", pattern)
    assert check_answer(rpc, check_request(path)).status.code == 7


@pytest.mark.parametrize("path", ["/admin/a|b/edit", "/admin/[1]/edit", "/admin/%22x%22/edit", '/admin/"/edit'])
async def test_a_character_outside_of_templates_evades_no_denial_and_is_never_granted(path):
    for pattern in ("/admin/{*}/edit", "/admin/{**}"):
        denying = await deciding("DENY", pattern)
        assert check_answer(denying, check_request(path)).status.code == 7
    granting = await deciding("ALLOW", "/admin/{*}/edit")
    assert check_answer(granting, check_request(path)).status.code == (0 if "%" in path else 7)

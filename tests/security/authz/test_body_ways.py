"""Ways around a policy in Rego that looks into bodies, each through a real Envoy: none reaches the workload."""

from functools import partial

import pytest

from app.authz.backends.policy_source import PathSource
from app.authz.backends.rego import RegoOptions, RegoProvider
from app.core.clock import SystemClock
from app.envoy.sidecar import Protocol
from tests.assets.body_ways import MAX_BODY_BYTES, PASSING, POLICY, WAYS
from tests.support.protected_workload import check_of, documents, protected, reached


def with_bodies(made, *, pack):
    """Have Envoy send the beginning of each body."""
    check_of(made)["with_request_body"] = {
        "max_request_bytes": MAX_BODY_BYTES,
        "allow_partial_message": True,
        "pack_as_bytes": pack,
    }
    return made


@pytest.mark.parametrize(
    ("check", "pack"), [(Protocol.GRPC, False), (Protocol.GRPC, True), (Protocol.HTTP, False)], ids=str
)
@pytest.mark.timeout(240)
async def test_no_body_reaches_the_workload_in_which_a_server_finds_another_role(tmp_path, check, pack):
    (tmp_path / "policy.rego").write_text(POLICY)
    options = RegoOptions(PathSource(tmp_path / "policy.rego"), "envoy/authz/allow", 20.0, 1)
    provider = RegoProvider("bodies", options, SystemClock())
    await provider.refresh()
    text = documents("CUSTOM [{}]").replace("action: CUSTOM", "action: CUSTOM, provider: {name: bodies}")
    change = partial(with_bodies, pack=pack)
    try:
        async with protected(tmp_path, text, change, check, providers={"bodies": provider}) as (
            workload,
            port,
            peers,
            _,
        ):
            assert len(await reached(PASSING, workload, port, peers)) == len(PASSING)
            assert await reached(WAYS, workload, port, peers) == []
    finally:
        await provider.close()

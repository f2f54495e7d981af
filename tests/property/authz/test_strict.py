"""What strict matching allows, Istio's allows as well, whatever a check has or lacks."""

import random
from dataclasses import replace
from functools import cache

import pytest

from app.authz.model import Matching
from app.authz.rpc.check import AuthorizationRpc
from tests.fakes.authz import engine_of
from tests.fakes.checks import check_answer, policy_service
from tests.support.differential.aim import aimed
from tests.support.differential.checks import random_check
from tests.support.differential.mesh import Certificates
from tests.support.differential.policies import documents, random_sets
from tests.support.differential.run import OPTIONS
from tests.support.differential.traffic import random_connections, random_requests

SETS, REQUESTS, CONNECTIONS = 25, 14, 2
certificates = cache(Certificates)


async def deciding(found, matching, hops):
    options = replace(OPTIONS, matching=matching)
    service = await policy_service(options=options, engine=engine_of(documents(found), options))
    return AuthorizationRpc(service, trusted_hops=hops)


@pytest.mark.parametrize("seed", range(8))
async def test_what_strict_matching_allows_istios_allows(seed):
    rng = random.Random(seed)
    allowed = 0
    for found in random_sets(SETS, seed):
        hops = rng.randint(0, 2)
        istio, strict = [await deciding(found, matching, hops) for matching in (Matching.ISTIO, Matching.STRICT)]
        requests = [aimed(rng, each, found) for each in random_requests(REQUESTS, rng.randrange(1 << 30))]
        for request in (*requests, *random_connections(CONNECTIONS, rng.randrange(1 << 30))):
            check = random_check(rng, request, certificates())
            if check_answer(strict, check).status.code == 0:
                allowed += 1
                assert check_answer(istio, check).status.code == 0, (documents(found), check)
    assert allowed > SETS

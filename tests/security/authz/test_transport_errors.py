"""A check that fails before it is evaluated is denied: on an error the sidecar would decide."""

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from app.authz.rpc.check import AuthorizationRpc
from app.core.errors import DeadlineExceededError, InternalError
from app.telemetry.metrics import Metrics
from tests.fakes.checks import policy_service


@pytest.mark.parametrize("error", [DeadlineExceededError("too late"), InternalError("hidden")])
async def test_a_transport_error_is_a_403(error):
    metrics = Metrics()
    answer: CheckResponse = AuthorizationRpc(await policy_service(metrics=metrics)).deny(error)
    assert answer.status.code == 7
    assert answer.denied_response.status.code == 403
    assert answer.denied_response.body
    assert metrics.decisions.value("deny", "malformed") == 1

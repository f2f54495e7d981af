"""Checks over real gRPC and HTTP whose policy engine has to wait for its verdict."""

import asyncio

import grpc.aio
import httpx
import pytest
from envoy.service.auth.v3 import external_auth_pb2_grpc

from app.authz.model import Cause, Verdict
from app.core.decision import Decision, Outcome
from tests.fakes.checks import check_request
from tests.fakes.engine import WaitingEngine
from tests.fakes.served_authz import served_authz

PERMISSION_DENIED = 7
VERDICTS = {outcome: Verdict(Decision(outcome, "decided by another engine"), Cause.POLICY) for outcome in Outcome}


async def test_a_check_that_waits_is_answered_on_the_first_and_on_later_calls_of_a_connection():
    engine = WaitingEngine()
    async with served_authz(engine=engine) as served, grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        check = external_auth_pb2_grpc.AuthorizationStub(channel).Check
        for calls, outcome in enumerate([Outcome.ALLOW, Outcome.DENY, Outcome.ALLOW], start=1):
            waiting = asyncio.ensure_future(check(check_request(), timeout=30))
            await engine.asked.wait()
            assert len(engine.requests) == calls
            engine.answer(VERDICTS[outcome])
            response = await waiting
            assert response.HasField("ok_response") == (outcome is Outcome.ALLOW)
            assert response.dynamic_metadata["meshward.reason"] == "decided by another engine"


async def test_a_check_that_waits_longer_than_its_deadline_is_denied():
    async with (
        served_authz(engine=WaitingEngine()) as served,
        grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel,
    ):
        check = external_auth_pb2_grpc.AuthorizationStub(channel).Check
        for _ in range(2):
            # The deadline of the header; the client itself waits longer, to see what is answered.
            response = await check(check_request(), metadata=[("grpc-timeout", "50m")])
            assert response.status.code == PERMISSION_DENIED
            assert response.denied_response.status.code == 403


@pytest.mark.parametrize(("outcome", "status"), [(Outcome.ALLOW, 200), (Outcome.DENY, 403)])
async def test_an_http_check_waits_for_its_verdict(outcome, status):
    engine = WaitingEngine()
    async with served_authz(engine=engine) as served, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{served.port}/ext_authz/hello"
        waiting = asyncio.ensure_future(client.get(url, headers={"x-meshward-namespace": "shop"}))
        await engine.asked.wait()
        engine.answer(VERDICTS[outcome])
        assert (await waiting).status_code == status

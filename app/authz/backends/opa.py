"""The provider that asks an OPA server (OPA's documentation, "REST API": Data API, "Get a Document (with Input)")."""

import asyncio
import json
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import httpx

from app.authz.backends.grpc_messages import GrpcMessages
from app.authz.backends.kept_answers import KeptAnswers
from app.authz.model import CheckInput
from app.authz.providers import Answer
from app.authz.rules.bodies import no_constant
from app.authz.rules.opa import MAX_DECISION_BYTES, BodyReading, input_document, input_text, read_decision
from app.authz.rules.parts import Parts, selected
from app.core.clock import Clock
from app.core.errors import InvalidInputError

# A decision, and what OPA puts around it: an id, metrics, warnings.
MAX_ANSWER_BYTES = 2 * MAX_DECISION_BYTES
# Requests that wait for a connection; more would only wait until their time is over.
MAX_WAITING = 1000
# OPA's ids are UUIDs.
MAX_DECISION_ID = 256

# Who sends requests chooses much of what is hashed, and finds two with the same 16 bytes in 2⁶⁴ tries.
_DIGEST_BYTES = 32
# Answers are not decompressed: a few bytes could become gigabytes.
_HEADERS = {"content-type": "application/json", "accept-encoding": "identity"}
_UNDEFINED = Answer("its decision is undefined", undecided=True)
_BUSY = Answer(f"more than {MAX_WAITING} requests wait for OPA", undecided=True)


@dataclass(frozen=True, slots=True)
class OpaOptions:
    """Where OPA is, and how it is asked.

    `query` is the path of the decision, `envoy/authz/allow`. `seconds` is how long an answer may take, `connections`
    how many there are at once. `cache_seconds` is how long an answer is kept for equal inputs, 0 for not at all; equal
    in the parts `cache_by`, or without any in all but the request's time and ids. `messages` reads bodies of gRPC; with
    `skip_bodies`, no body is read.
    """

    url: str
    query: str
    seconds: float
    connections: int
    cache_seconds: float = 0.0
    cache_by: Parts | None = None
    messages: GrpcMessages | None = None
    skip_bodies: bool = False


class OpaProvider:
    """Decides by what an OPA server answers; what is no answer, in time and as documented, denies."""

    def __init__(self, options: OpaOptions, clock: Clock) -> None:
        self._options = options
        self._url = f"{options.url.rstrip('/')}/v1/data/{options.query}"
        limits = httpx.Limits(max_connections=options.connections, max_keepalive_connections=options.connections)
        # The time is bounded as a whole as well, below. Redirects lead to where nobody said that decisions are made.
        self._client = httpx.AsyncClient(
            limits=limits, timeout=options.seconds, follow_redirects=False, trust_env=False
        )
        self._kept = KeptAnswers(clock, options.cache_seconds) if options.cache_seconds else None
        self._asking = 0
        self._reading = BodyReading(options.messages, options.skip_bodies)

    @property
    def loaded(self) -> bool:
        """Whether messages can be read; the policies are OPA's."""
        return self._options.messages is None or self._options.messages.loaded

    async def refresh(self) -> None:
        """Read how messages are read, if the file was changed. Raises MeshwardError; what was active stays."""
        if self._options.messages is not None:
            await self._options.messages.refresh()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __call__(self, request: CheckInput) -> Answer:
        """Return OPA's decision. What goes wrong denies: OPA that is down or slow, another status, no decision."""
        try:
            document = input_document(request, reading=self._reading)
            text = input_text(document)
        except InvalidInputError as error:
            return Answer(error.message, undecided=True)
        if self._kept is None:
            return await self._ask(text)
        key = _key(document, self._options.cache_by)
        answer = self._kept.get(key)
        if answer is None:
            answer = await self._ask(text)
            self._kept.keep(key, answer)
        return answer

    async def _ask(self, text: bytes) -> Answer:
        if self._asking >= MAX_WAITING + self._options.connections:
            return _BUSY
        self._asking += 1
        try:
            async with asyncio.timeout(self._options.seconds):
                status, content = await self._post(b'{"input":' + text + b"}")
        except TimeoutError:
            return Answer(f"OPA did not answer within {self._options.seconds * 1000:g} ms", undecided=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Answer(f"OPA cannot be asked: {error or type(error).__name__}", undecided=True)
        finally:
            self._asking -= 1
        if status != httpx.codes.OK:
            return Answer(f"OPA answered with the status {status}", undecided=True)
        return _read(content)

    async def _post(self, body: bytes) -> tuple[int, bytes | None]:
        """Return the status, and the content unless it is too long."""
        async with self._client.stream("POST", self._url, content=body, headers=_HEADERS) as response:
            content = b""
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    return response.status_code, None
            return response.status_code, content


def _read(content: bytes | None) -> Answer:
    if content is None:
        return Answer(f"OPA's answer is longer than {MAX_ANSWER_BYTES} bytes", undecided=True)
    try:
        answer = json.loads(content, parse_constant=no_constant)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        return Answer("OPA's answer is not a JSON object", undecided=True)
    return _with_id(read_decision(answer["result"]), answer.get("decision_id")) if "result" in answer else _UNDEFINED


def _with_id(answer: Answer, decision_id: object) -> Answer:
    """Return the answer with the id of OPA's decision log in its metadata, where OPA-Envoy has it."""
    if not isinstance(decision_id, str) or not 0 < len(decision_id) <= MAX_DECISION_ID or answer.undecided:
        return answer
    metadata = json.loads(answer.changes.metadata or "{}") | {"decision_id": decision_id}
    return replace(answer, changes=replace(answer.changes, metadata=json.dumps(metadata)))


def _key(document: dict[str, Any], parts: Parts | None) -> bytes:
    """Return what equal inputs have in common: the parts, or all but the request's time, ids and the peer's port."""
    found = _lasting(document) if parts is None else selected(document, parts)
    return blake2b(json.dumps(found, sort_keys=True).encode(), digest_size=_DIGEST_BYTES).digest()


def _lasting(document: dict[str, Any]) -> dict[str, Any]:
    attributes = dict(document["attributes"])
    asked = dict(attributes.get("request", {}))
    http = dict(asked.get("http", {}))
    asked.pop("time", None)
    http.pop("id", None)
    http["headers"] = {name: value for name, value in http.get("headers", {}).items() if name != "x-request-id"}
    http["headerMap"] = [each for each in http.get("headerMap", {}).get("headers", ()) if each["key"] != "x-request-id"]
    source = dict(attributes.get("source", {}))
    source["address"] = source.get("address", {}).get("socketAddress", {}).get("address")
    attributes |= {"request": {**asked, "http": http}, "source": source}
    return {**document, "attributes": attributes}

"""limitador's HTTP API: `/check`, `/report`, `/check_and_report`, `/limits/…`, `/counters/…` and `/status`."""

import json
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any
from urllib.parse import unquote

from app.core.errors import InvalidInputError, MeshwardError
from app.core.json_text import parse_object
from app.quota.model import (
    MAX_ENTRIES,
    MAX_KEY_LENGTH,
    MAX_UINT32,
    MAX_VALUE_LENGTH,
    Code,
    CounterName,
    Descriptor,
)
from app.quota.rpc.headers import HeaderFamily, HeaderOptions, headers_of
from app.quota.rules.describe import as_unicode
from app.quota.rules.limitador import ConditionalLimit
from app.quota.service import QuotaService
from app.quota.service.counters import CounterService, ShownCounter
from app.spiffe.principal import Principal
from app.transport.body import Receive, read_body
from app.transport.mesh import PRINCIPAL_KEY
from app.transport.rest.problems import status_of

CHECK, REPORT, CHECK_AND_REPORT, STATUS = "/check", "/report", "/check_and_report", "/status"
LIMITS, COUNTERS = "/limits", "/counters"
LIMITADOR_PATHS = (CHECK, REPORT, CHECK_AND_REPORT, LIMITS, COUNTERS, STATUS)
# A namespace and the values of one request.
MAX_BODY_BYTES = 1024 * 1024
# Counters of one answer, which is not paged; the admin API has all of them.
MAX_COUNTERS = 10_000
COUNTERS_AT_ONCE = 1000

_OK, _NOT_FOUND, _OVER_LIMIT = 200, 404, 429
_DRAFT03 = HeaderOptions((HeaderFamily.DRAFT03,))
_FIELDS = frozenset({"namespace", "values", "delta", "response_headers"})

Send = Callable[[dict[str, Any]], Awaitable[None]]
Answer = tuple[int, Any, tuple[tuple[str, str], ...]]


class LimitadorHttp:
    """The ASGI application. A request is a namespace, a delta, and values: `descriptors[0]` in expressions."""

    def __init__(self, service: QuotaService, counters: CounterService) -> None:
        self._service, self._counters = service, counters

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3, http): 200, or 429 if it is over a limit."""
        try:
            status, content, headers = await self._answer(scope, receive)
        except MeshwardError as error:
            status, content, headers = status_of(error), {"error": error.message}, ()
        sent = [(name.encode(), value.encode()) for name, value in (("content-type", "application/json"), *headers)]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})

    async def _answer(self, scope: Mapping[str, Any], receive: Receive) -> Answer:
        path, method = scope["path"], scope["method"]
        if (method, path) == ("GET", STATUS):
            return _OK, None, ()
        if method == "GET" and path.startswith(f"{LIMITS}/"):
            namespace = unquote(path.removeprefix(f"{LIMITS}/"))
            return _OK, [_shown(limit) for limit in self._service.limits_of(namespace)], ()
        if method == "GET" and path.startswith(f"{COUNTERS}/"):
            namespace = unquote(path.removeprefix(f"{COUNTERS}/"))
            self._service.check_caller(scope["state"][PRINCIPAL_KEY], namespace)
            return _OK, await self._counters_of(namespace), ()
        if method != "POST" or path not in {CHECK, REPORT, CHECK_AND_REPORT}:
            return _NOT_FOUND, {"error": "there is nothing here"}, ()
        namespace, descriptor, delta, headers = _request(await read_body(receive, MAX_BODY_BYTES))
        principal: Principal = scope["state"][PRINCIPAL_KEY]
        request = self._service.match_limits(namespace, [descriptor], delta)
        if request.joint is not None and path != CHECK_AND_REPORT:
            request = request._replace(joint=None if path == REPORT else request.joint._replace(counts=False))
        answer = self._service.should_rate_limit(principal, request)
        decided = await answer if isawaitable(answer) else answer
        over = decided.code is Code.OVER_LIMIT and path != REPORT
        shown = headers_of(_DRAFT03, decided.code, decided.statuses) if headers else ()
        return _OVER_LIMIT if over else _OK, None, shown

    async def _counters_of(self, namespace: str) -> list[dict[str, Any]]:
        """Return the first counters of a namespace in the shape of limitador; none of one that is not known."""
        if not self._service.limits_of(namespace):
            return []
        found: dict[CounterName, dict[str, Any]] = {}
        cursor: str | None = None
        while len(found) < MAX_COUNTERS:
            page = await self._counters.page(namespace, None, cursor, COUNTERS_AT_ONCE)
            for each in page.counters:
                if each.place.source is not None:
                    found[each.counter.name] = _counter(each, each.place.source.limit)
            cursor = page.following
            if cursor is None:
                break
        return list(found.values())[:MAX_COUNTERS]


def _request(body: bytes) -> tuple[str, Descriptor, int, bool]:
    """Return namespace, values, delta, and whether headers are wanted."""
    fields = parse_object(body, "the body")
    if not fields.keys() <= _FIELDS:
        raise InvalidInputError(f"the body must be an object with the fields {', '.join(sorted(_FIELDS))}")
    namespace, values, delta = fields.get("namespace"), fields.get("values", {}), fields.get("delta", 1)
    if not isinstance(namespace, str) or not namespace:
        raise InvalidInputError("namespace must be a string that is not empty")
    if not isinstance(values, dict) or len(values) > MAX_ENTRIES or not all(map(_fits, values.items())):
        raise InvalidInputError(f"values must be an object of up to {MAX_ENTRIES} strings")
    if not isinstance(delta, int) or isinstance(delta, bool) or not 0 <= delta <= MAX_UINT32:
        raise InvalidInputError(f"delta must be an integer from 0 to {MAX_UINT32}")
    return namespace, Descriptor(tuple(values.items())), delta, fields.get("response_headers") is not None


def _fits(item: tuple[str, Any]) -> bool:
    key, value = item
    return isinstance(value, str) and len(key) <= MAX_KEY_LENGTH and len(value) <= MAX_VALUE_LENGTH


def _counter(shown: ShownCounter, limit: ConditionalLimit) -> dict[str, Any]:
    entries = shown.place.entries_of(shown.counter.name[1]) or ()
    return {
        "limit": _shown(limit),
        "set_variables": {variable: as_unicode(value) for variable, value in entries},
        "remaining": shown.place.remaining_of(shown.counter),
        "expires_in_seconds": shown.counter.resets_in,
    }


def _shown(limit: ConditionalLimit) -> dict[str, Any]:
    return {
        "id": limit.id or None,
        "namespace": limit.namespace,
        "max_value": limit.max_value,
        "seconds": limit.seconds,
        "name": limit.name or None,
        "conditions": list(limit.conditions),
        "variables": list(limit.variables),
    }

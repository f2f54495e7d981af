"""A counterexample made smaller: less of its policies and of its request, as long as the two still decide differently.

All that can be left out in one step is tried in one run, because each needs an Envoy of its own configuration.
"""

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

from app.authz.rules.parse import POLICY_KIND
from app.core.errors import InvalidInputError
from app.documents.parser import parse_documents
from tests.support.differential.builder import translate
from tests.support.differential.policies import documents
from tests.support.differential.run import Pair, judge

MAX_ROUNDS = 30
_KEPT = {"apiVersion", "kind", "metadata", "spec", "action", "key", "source", "operation", "name", "namespace"}


async def shrunk(policies, request, builder, directory):
    """Return the smallest policies and request that were found, with what was decided on them."""
    best = None
    for round_ in range(MAX_ROUNDS):
        tried = [(policies, request)] if best is None else list(_smaller(policies, request))
        filters = translate(builder, [each for each, _ in tried])
        valid = {number: found for number, found in enumerate(filters) if "problem" not in found}
        pairs = [Pair(number, tried[number][1]) for number in valid]
        sets = {number: tried[number][0] for number in valid}
        judged = await judge(pairs, sets, valid, directory / str(round_))
        wrong = [
            (_size(*tried[pair.number]), pair.number, found)
            for pair, found in zip(pairs, judged, strict=True)
            if found is not None and not found.is_right
        ]
        if not wrong:
            break
        _, number, best = min(wrong, key=lambda each: each[:2])
        policies, request = tried[number]
    return policies, request, best


def _is_valid(policies):
    try:
        POLICY_KIND.parse(parse_documents(documents(policies).encode()))
    except InvalidInputError:
        return False
    return True


def _size(policies, request):
    return len(json.dumps(policies)) + len(repr(request))


def _smaller(policies, request):
    for found in _less(policies):
        if found and _is_valid(found):
            yield found, request
    for found in _simpler(request):
        yield policies, found


def _less(value):
    """Yield the document without one of its parts, at any depth."""
    keys = range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ()
    for key in keys:
        if isinstance(value, list) or key not in _KEPT:
            found = deepcopy(value)
            del found[key]
            yield found
        for part in _less(value[key]):
            found = deepcopy(value)
            found[key] = part
            yield found


def _simpler(request):
    for index in range(len(request.headers)):
        yield replace(request, headers=request.headers[:index] + request.headers[index + 1 :])
    if not request.method:
        return
    for name, value in (("method", "GET"), ("host", "x"), ("target", "/")):
        if getattr(request, name) != value:
            yield replace(request, **{name: value})
    plain: dict[str, Any] = {"http2": False, "address": "127.0.0.1", "certificate": "", "server_name": ""}
    for name, value in plain.items():
        if getattr(request.peer, name) != value:
            yield replace(request, peer=replace(request.peer, **{name: value}))

"""A check as providers get it, without the credentials that are taken out of the request."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from app.authz.providers import Changes

Attributes = Callable[[Mapping[str, Any]], dict[str, Any]]


def concealing(attributes: Attributes, changes: Changes) -> Attributes:
    """Return what returns the attributes with the changes of headers and of the query made in them."""
    return partial(_attributes, attributes, changes)


def _attributes(attributes: Attributes, changes: Changes, parts: Mapping[str, Any]) -> dict[str, Any]:
    found = attributes(parts)
    request = found.get("request", {})
    if "http" not in request:
        return found
    return {**found, "request": {**request, "http": _http(request["http"], changes)}}


def _http(http: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    changed = dict(http)
    removed, replaced = set(changes.headers_to_remove), dict(changes.headers)
    if headers := http.get("headers"):
        kept = {name: value for name, value in headers.items() if name not in removed}
        changed["headers"] = {name: replaced.get(name, value) for name, value in kept.items()}
    if raw := http.get("headerMap", {}).get("headers"):
        others = [each for each in raw if each["key"].lower() not in removed | replaced.keys()]
        changed["headerMap"] = {"headers": [*others, *({"key": name, "value": replaced[name]} for name in replaced)]}
    if changes.query_to_remove and (path := http.get("path")):
        changed["path"] = _path(path, changes.query_to_remove)
    return changed


def _path(path: str, removed: Collection[str]) -> str:
    target, _, query = path.partition("?")
    query, mark, fragment = query.partition("#")
    kept = "&".join(pair for pair in query.split("&") if pair.partition("=")[0] not in removed)
    return f"{target}?{kept}{mark}{fragment}" if kept else f"{target}{mark}{fragment}"

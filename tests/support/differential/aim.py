"""Requests that are changed so that they meet policies, or nearly: at random they rarely do."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from tests.support.differential import policies as vocabulary
from tests.support.differential.mesh import NAMES
from tests.support.differential.policies import Document
from tests.support.differential.traffic import (
    CLAIMS_HEADER,
    FOUND_HEADER,
    SERVER_NAMES,
    Request,
    metadata_header,
)

# How many fields of its policies a request is made to meet: most meet one.
AIMS = (0, 1, 1, 1, 2, 3)
_LONGER = ("", "x", "/x", ".js")

Change = Callable[[random.Random, Request, str], Request]
"""Returns the request with a text that meets a value, or nearly."""


def aimed(rng: random.Random, request: Request, policies: list[Document]) -> Request:
    """Return the request, changed to meet some of the values of the policies."""
    fields = [each for policy in policies for each in _fields(policy["spec"].get("rules", []))]
    for name, values in rng.sample(fields, min(len(fields), rng.choice(AIMS))):
        change = _change_of(name)
        if change is not None:
            request = change(rng, request, rng.choice(values))
    return request


def _fields(value: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield the names of fields and conditions, each with its values."""
    if isinstance(value, list):
        for each in value:
            yield from _fields(each)
    elif "key" in value:
        for values in (value.get("values"), value.get("notValues")):
            if values:
                yield value["key"], values
    else:
        for name, inner in value.items():
            if inner and isinstance(inner, list) and isinstance(inner[0], str):
                yield name, inner
            elif isinstance(inner, list | dict):
                yield from _fields(inner)


def _near(rng: random.Random, pattern: str) -> str:
    """Return a text that the pattern matches, or now and then one that it does not."""
    text = pattern.replace("{**}", "x/y").replace("{*}", "x")
    if pattern.startswith("*"):
        text = rng.choice(_LONGER) + text[1:]
    elif pattern.endswith("*"):
        text = text[:-1] + rng.choice(_LONGER)
    return rng.choice([*[text] * 6, text.upper(), f"{text}x", text[1:]])


def _change_of(name: str) -> Change | None:
    if name.startswith("not"):
        name = name[3].lower() + name[4:]
    if name.startswith("request.headers["):
        header = name[len("request.headers[") : -1]
        return _PSEUDO_HEADERS.get(header) or _header(header)
    if name.startswith("request.auth.claims"):
        return _claim(name.partition("[")[2][:-1].split("]["))
    if name.startswith("experimental."):
        return _found
    return _CHANGES.get(name)


def _header(name: str) -> Change:
    def change(rng: random.Random, request: Request, value: str) -> Request:
        found = (name, _near(rng, value).encode())
        others = [each for each in request.headers if each[0].lower() != name.lower() or rng.random() < 0.3]
        at = rng.randint(0, len(others))
        return replace(request, headers=(*others[:at], found, *others[at:]))

    return change


def _path(rng: random.Random, request: Request, value: str) -> Request:
    text = _near(rng, value)
    return replace(request, target=text) if text.startswith("/") and text.isprintable() else request


def _host(rng: random.Random, request: Request, value: str) -> Request:
    return replace(request, host=_near(rng, value))


def _method(rng: random.Random, request: Request, value: str) -> Request:
    text = value.strip("*") + rng.choice(["", "T", "ET"])
    return replace(request, method=text) if text in vocabulary.METHODS or request.peer.http2 else request


def _with_metadata(request: Request, header: str, value: Any) -> Request:
    others = [each for each in request.headers if each[0] != header]
    return replace(request, headers=(*others, (header, metadata_header(value))))


def _metadata_of(rng: random.Random, text: str) -> Any:
    return rng.choice([text, text, [text], ["other", text]])


def _claim(keys: list[str]) -> Change:
    def change(rng: random.Random, request: Request, value: str) -> Request:
        found = _metadata_of(rng, _near(rng, value))
        for key in reversed(keys):
            found = {key: found}
        return _with_metadata(request, CLAIMS_HEADER, found)

    return change


def _request_principal(rng: random.Random, request: Request, value: str) -> Request:
    issuer, slash, subject = value.rpartition("/")
    if not slash:
        # A pattern without one is about the issuer, or if it begins with a star about the subject.
        issuer, subject = ("x", value) if value.startswith("*") else (value, "x")
    claims = {"iss": _near(rng, issuer), "sub": _near(rng, subject)}
    return _with_metadata(request, CLAIMS_HEADER, claims)


def _found(rng: random.Random, request: Request, value: str) -> Request:
    text = _near(rng, value.strip("[]"))
    return _with_metadata(request, FOUND_HEADER, _metadata_of(rng, text))


def _certificate(rng: random.Random, request: Request, value: str) -> Request:
    """Have a peer whose certificate has a part of the value in one of its names."""
    part = value.rpartition("/")[2].strip("*")
    found = [name for name, names in NAMES.items() if any(part in uri for uri in names["uris"])]
    if request.peer.listener in {"plain", "as_sent"} or not found:
        return request
    return replace(request, peer=replace(request.peer, certificate=rng.choice(found)))


def _server_name(rng: random.Random, request: Request, value: str) -> Request:
    if request.peer.listener != "mtls":
        return request
    names = [name for name in SERVER_NAMES if value.strip("*").lower() in name.lower()]
    return replace(request, peer=replace(request.peer, server_name=rng.choice(names or SERVER_NAMES)))


def _remote_address(rng: random.Random, request: Request, value: str) -> Request:
    block = ip_network(value, strict=False)
    address = rng.choice([block[0], block[-1], block[0] + 1, block[-1] + (block.num_addresses < 2)])
    after = rng.choice(["", ", 127.0.0.9", ", 127.0.0.9, 127.0.0.8"])
    return _header("x-forwarded-for")(rng, request, f"{address}{after}")


_PSEUDO_HEADERS: dict[str, Change] = {
    ":path": _path,
    ":authority": _host,
    ":method": _method,
    # Where Envoy believes it, it makes the scheme of it.
    ":scheme": _header("x-forwarded-proto"),
}
_CHANGES: dict[str, Change] = {
    "paths": _path,
    "hosts": _host,
    "methods": _method,
    "requestPrincipals": _request_principal,
    "request.auth.principal": _request_principal,
    "request.auth.audiences": _claim(["aud"]),
    "request.auth.presenter": _claim(["azp"]),
    "remoteIpBlocks": _remote_address,
    "remote.ip": _remote_address,
    "connection.sni": _server_name,
    **dict.fromkeys(("principals", "namespaces", "serviceAccounts", "trustDomains"), _certificate),
    **dict.fromkeys(
        ("source.principal", "source.namespace", "source.serviceAccount", "source.trustDomain"), _certificate
    ),
}

"""What a process that has loaded a set of policies says about them, as JSON: what they read, and what they cost."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from app.authz.backends.rego_cost import Cost, cost_of
from app.authz.backends.rego_engine import parsed
from app.authz.backends.rego_reads import is_pure, paths_read
from app.authz.backends.rego_tree import module_of
from app.authz.rules.parts import EVERYTHING, Parts, parts_of

# Larger policies and data are not looked at: that they are loaded beside the event loop is to take milliseconds.
MAX_BYTES = 64 * 1024

Modules = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Known:
    """The parts of the input that the policies read; and if their cost is known, the modules as they are evaluated.

    `pure`: they decide the same for the same input, now and later.
    """

    parts: Parts
    pure: bool = False
    modules: Modules = ()
    cost: Cost | None = None


def known_json(modules: Iterable[tuple[str, str]], data: str, *, v0: bool) -> bytes:
    """Return what is known of rewritten modules, for `read_known`."""
    given = tuple(modules)
    if sum(len(text) for _, text in given) + len(data) > MAX_BYTES:
        return b"{}"
    try:
        found = tuple(module_of(parsed(name, text, v0=v0), text) for name, text in given)
        paths, cost = paths_read(found), cost_of(found, data.encode())
    except Exception:  # noqa: BLE001 - what is not understood is evaluated whole, by the process
        return b"{}"
    content: dict[str, object] = {"paths": sorted(paths), "pure": is_pure(found)}
    if cost is not None:
        content |= {"modules": given, "cost": [cost.steps, cost.elements, cost.data_bytes]}
    return json.dumps(content).encode()


def read_known(text: bytes) -> Known:
    """Return what `known_json` has."""
    content = json.loads(text)
    parts = parts_of(tuple(path) for path in content["paths"]) if "paths" in content else EVERYTHING
    if "cost" not in content:
        return Known(parts, content.get("pure", False))
    steps, elements, data_bytes = content["cost"]
    modules = tuple((str(name), str(source)) for name, source in content["modules"])
    return Known(parts, content["pure"], modules, Cost(tuple(steps), elements, data_bytes))

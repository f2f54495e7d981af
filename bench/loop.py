"""What the admin API and changes of policies do to checks: `python -m bench.loop`.

A control plane runs as a process with 100,000 rules in 1,000 policies. A sidecar makes checks at a steady rate while
one operation after the other runs in a process of its own. Printed is the latency of the checks made meanwhile.
"""

import asyncio
import json
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import grpc

from app.audit.rest import AUDIT_PATH
from app.authz.rest.policies import POLICIES_PATH
from app.authz.rules.parse import POLICY_KIND
from app.db.engine import create_engine, sqlite_url
from app.db.transactions import Transactions
from app.documents.repository import SqlDocumentRepository
from bench.beside import CHECKS_PER_SECOND, Row, Table, Target, honest

POLICIES = 1_000
RULES = 100
NAMESPACES = 50
# As many documents as one request may have values for.
BATCH = 150
MAX_P99_MS = 20.0
# How long checks are made before and after an operation.
MARGIN_SECONDS = 0.5
# The longest that a check is waited for.
TIMEOUT_SECONDS = 120.0


def policy(index: int, mark: str = "") -> dict[str, object]:
    """Return one of the policies; `mark` makes it differ from the one with the same name."""
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {
            "name": f"p{index}",
            "namespace": "shop" if index % NAMESPACES == 0 else f"ns{index % NAMESPACES}",
        },
        "spec": {"action": "ALLOW", "rules": [_rule(index, number, mark) for number in range(RULES)]},
    }


def _rule(index: int, number: int, mark: str) -> dict[str, object]:
    source = {"principals": [f"cluster.local/ns/shop/sa/{index}-{number}"]}
    operation = {"methods": ["GET"], "paths": [f"/api/{index}/{number}{mark}/*"]}
    return {"from": [{"source": source}], "to": [{"operation": operation}]}


def batch(first: int, mark: str = "") -> bytes:
    """Return the body with a batch of policies."""
    return json.dumps([policy(index, mark) for index in range(first, min(first + BATCH, POLICIES))]).encode()


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin API of the control plane, and its data dir."""

    port: int
    directory: Path

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Return the body of the answer."""
        token = (self.directory / "admin.token").read_text(encoding="ascii").strip()
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, body, {"authorization": f"Bearer {token}"}, method=method)
        with urllib.request.urlopen(request) as answer:
            found: bytes = answer.read()
        return found


def load(admin: Admin) -> None:
    """Put every policy."""
    for first in range(0, POLICIES, BATCH):
        admin.ask("POST", POLICIES_PATH, batch(first))


def list_all(admin: Admin, path: str) -> None:
    """Read a list to its end, the largest pages."""
    cursor = ""
    while True:
        answer = json.loads(admin.ask("GET", f"{path}?limit=1000{cursor}"))
        if not answer["next_cursor"]:
            return
        cursor = f"&cursor={answer['next_cursor']}"


def again(times: int, method: str, path: str, admin: Admin) -> None:
    """Make the same request several times."""
    for _ in range(times):
        admin.ask(method, path)


def put_one(admin: Admin) -> None:
    """Replace one policy several times."""
    for number in range(10):
        admin.ask("PUT", f"{POLICIES_PATH}/shop/p0", json.dumps(policy(0, f"/put{number}")).encode())


def delete(admin: Admin) -> None:
    """Delete policies, one in each namespace."""
    for index in range(NAMESPACES):
        found = policy(index)["metadata"]
        assert isinstance(found, dict)
        admin.ask("DELETE", f"{POLICIES_PATH}/{found['namespace']}/{found['name']}")


def elsewhere(count: int, admin: Admin) -> None:
    """Change so many policies as another replica does: in the database."""
    asyncio.run(_change(admin.directory / "meshward.db", count))


async def _change(database: Path, count: int) -> None:
    engine = create_engine(sqlite_url(database))
    async with Transactions(engine, partial(SqlDocumentRepository, kind=POLICY_KIND.name))() as repository:
        revision = await repository.next_revision()
        for stored in await repository.page(None, count, None):
            await repository.put(replace(stored, version=revision))
    await engine.dispose()
    await asyncio.sleep(2)  # until the control plane has looked


OPERATIONS: dict[str, Callable[[Admin], None]] = {
    "put 1,000 in bulk, all new": load,
    "nothing": lambda _: None,
    "list, limit=1000, to the end": partial(list_all, path=POLICIES_PATH),
    "get one, 50 times": partial(again, 50, "GET", f"{POLICIES_PATH}/shop/p0"),
    "put one, 10 times": put_one,
    f"put {BATCH} in bulk, all changed": lambda admin: _none(admin.ask("POST", POLICIES_PATH, batch(0, "/bulk"))),
    f"validate {BATCH}, 3 times": lambda admin: _none(
        *(admin.ask("POST", f"{POLICIES_PATH}/validate", batch(0)) for _ in range(3))
    ),
    "one changed at another replica": partial(elsewhere, 1),
    "200 changed at another replica": partial(elsewhere, 200),
    "delete 50": delete,
    "audit, limit=1000, to the end": partial(list_all, path=AUDIT_PATH),
    "metrics, 50 times": partial(again, 50, "GET", "/metrics"),
    "1,000 log lines": partial(again, 1_000, "GET", "/v1/policies/shop/p50"),
}


def _none(*_answers: bytes) -> None:
    pass


async def checked(channel: grpc.aio.Channel, work: Awaitable[object]) -> list[float]:
    """Make checks until `work` is done, and return how many milliseconds each took."""
    took: list[float] = []
    working = asyncio.ensure_future(work)
    while not working.done():
        took += await honest(channel, MARGIN_SECONDS, TIMEOUT_SECONDS)
    await working
    return took + await honest(channel, MARGIN_SECONDS, TIMEOUT_SECONDS)


async def run(name: str, target: Target) -> None:
    """Run an operation in a process of its own."""
    arguments = [sys.executable, "-m", "bench.loop", name, str(target.admin_port), str(target.directory)]
    process = await asyncio.create_subprocess_exec(*arguments)
    if await process.wait():
        raise RuntimeError(f"{name} failed")


async def measure(target: Target, channel: grpc.aio.Channel) -> AsyncIterator[Row]:
    """Yield a row for each operation."""
    for name in OPERATIONS:
        took = await checked(channel, run(name, target))
        yield Row(name, took, f"{len(took):>8}{target.megabytes:>7.0f}")


def main() -> None:
    """Print the table."""
    Table(
        f"Checks, {CHECKS_PER_SECOND} a second, beside {POLICIES * RULES:,} rules and what is done with them",
        "operation",
        f"{'checks':>8}{'MB':>7}",
        MAX_P99_MS,
    ).show(measure)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        OPERATIONS[sys.argv[1]](Admin(int(sys.argv[2]), Path(sys.argv[3])))
    else:
        main()

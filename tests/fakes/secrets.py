"""A source of secrets that a test replaces when it likes. The PEM in it is for reading back, not for TLS."""

import asyncio
from datetime import UTC, datetime

from app.core.errors import MeshwardError
from app.spiffe.bundle import TrustBundle
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Principal
from app.spiffe.x509_svid import WorkloadSvid

OWNER = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")


def svid(serial: int = 1, owner: SpiffeId = OWNER) -> WorkloadSvid:
    return WorkloadSvid(
        spiffe_id=owner,
        chain=(f"leaf {serial}\n", "signer\n"),
        private_key=f"key {serial}\n".encode(),
        not_before=datetime(2026, 1, 1, tzinfo=UTC),
        not_after=datetime(2026, 1, 2, tzinfo=UTC),
    )


def bundle(*roots: str) -> TrustBundle:
    return TrustBundle(OWNER.trust_domain, roots or ("root 1\n",))


class FakeSecrets:
    """A SecretSource whose sessions all see what was set last. `failure`, if set, is what `svid` raises.

    `waiting_fails`, if set, is what `wait_for_change` raises at the next `replace`.
    """

    def __init__(self) -> None:
        self.current_svid = svid()
        self.current_bundle = bundle()
        self.failure: MeshwardError | None = None
        self.waiting_fails: MeshwardError | None = None
        self.opened: list[Principal] = []
        self.made = 0
        self._changed = asyncio.Condition()

    def open(self, caller: Principal, *, once: bool = False) -> "FakeSession":
        self.opened.append(caller)
        return FakeSession(self)

    async def replace(self, **secrets) -> None:
        """Set `svid`, `bundle` or `failure`, and wake every session."""
        self.current_svid = secrets.get("svid", self.current_svid)
        self.current_bundle = secrets.get("bundle", self.current_bundle)
        self.failure = secrets.get("failure", self.failure)
        async with self._changed:
            self._changed.notify_all()

    async def wait(self, changed) -> None:
        async with self._changed:
            await self._changed.wait_for(changed)


class FakeSession:
    def __init__(self, source: FakeSecrets) -> None:
        self._source = source
        self._answered: dict[str, object] = {}

    async def svid(self) -> WorkloadSvid:
        if self._source.failure:
            raise self._source.failure
        self._source.made += 1
        self._answered["current_svid"] = self._source.current_svid
        return self._source.current_svid

    async def bundle(self) -> TrustBundle:
        self._answered["current_bundle"] = self._source.current_bundle
        return self._source.current_bundle

    async def wait_for_change(self) -> None:
        def changed() -> bool:
            if self._source.waiting_fails:
                raise self._source.waiting_fails
            failed = self._source.failure is not None and "current_svid" in self._answered
            return failed or any(getattr(self._source, name) is not old for name, old in self._answered.items())

        await self._source.wait(changed)

"""A control plane above another one, both in this process."""

from app.ca.ports import UpstreamCa
from app.spiffe.principal import Credential, Principal


class MemoryUpstream(UpstreamCa):
    """An UpstreamCa over the CaService of the one above. `away` is the error that calls end with."""

    def __init__(self, above, spiffe_id, clock) -> None:
        self.above, self._spiffe_id, self._clock = above, spiffe_id, clock
        self.away, self.asked, self.enrolled = None, 0, True

    @property
    def place(self):
        return "above:15012"

    @property
    def spiffe_id(self):
        return self._spiffe_id if self.enrolled else None

    @property
    def svid_not_after(self):
        return self._clock.now() if self.enrolled else None

    def bundle(self):
        return self.above.authorities.bundle() if self.enrolled else None

    async def sign(self, csr, ttl):
        self.asked += 1
        if self.away is not None:
            raise self.away
        caller = Principal(Credential.SVID, self._spiffe_id)
        issued = await self.above.downstreams.sign(caller, csr, int(ttl.total_seconds()))
        return issued.chain, issued.bundle.roots

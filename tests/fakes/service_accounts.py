"""A TokenReviewer that knows one account by one token, and remembers it."""

from app.core.errors import UnauthenticatedError, UnavailableError
from app.spiffe.service_account import BoundPod, ServiceAccount


class Reviewer:
    """Accepts `token` as the account's; while it is `away` it reviews none. `asked` is what was asked."""

    def __init__(self, cluster, namespace, name, token):
        self.account = ServiceAccount(cluster, namespace, name, BoundPod("cart-1", "uid", "node-1"))
        self.token, self.away = token, False
        self.asked, self._known = [], {}

    def known(self, token, audiences):
        return self._known.get((token, audiences))

    async def review(self, token, audiences):
        self.asked.append((token, audiences))
        if self.away:
            raise UnavailableError("the API server cannot be asked")
        if token != self.token:
            raise UnauthenticatedError("the service account token is refused", reason="kubernetes_refused")
        self._known[token, audiences] = self.account
        return self.account

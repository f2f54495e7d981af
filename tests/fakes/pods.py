"""The pods of a cluster, in memory."""

from app.ca.model import Pod


class FakePods:
    """`placed` are the pods by namespace and name, `ended` the names of those that have ended."""

    def __init__(self) -> None:
        self.placed: dict[tuple[str, str], Pod] = {}
        self.ended: set[str] = set()
        self.error = None

    async def pod(self, namespace, name):
        if self.error:
            raise self.error
        return self.placed.get((namespace, name))

    async def runs(self, namespace, service_account, node):
        return any(
            where == namespace and (pod.service_account, pod.node) == (service_account, node) and name not in self.ended
            for (where, name), pod in self.placed.items()
        )

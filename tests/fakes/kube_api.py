"""The HTTP of a Kubernetes API server, as much of it as is asked for: reviews of tokens, pods."""

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from tests.support.kube import MESHWARD, NOBODY, kubeconfig

STOPPING = web.AppKey("stopping", asyncio.Event)
EXTRA = "authentication.kubernetes.io/"


class FakeKubeApi:
    """Answers as an API server does with the tokens and pods that it is given.

    `behaviour` answers instead if it is set. `calls` are the method and path of each request.
    """

    def __init__(self, directory) -> None:
        self.directory = directory
        self.behaviour: Callable | None = None
        self.calls: list[str] = []
        self.pods: dict[tuple[str, str], dict] = {}
        self.url = ""
        self._accounts: dict[str, tuple[dict, tuple[str, ...]]] = {}

    @asynccontextmanager
    async def running(self):
        application = web.Application()
        application[STOPPING] = asyncio.Event()
        application.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(application, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            application[STOPPING].set()
            await runner.cleanup()

    @contextmanager
    def running_in_thread(self):
        """The same for those without an event loop of their own."""
        ready, stop = threading.Event(), []

        async def run():
            stopped = asyncio.Event()
            stop.extend((asyncio.get_running_loop(), stopped))
            async with self.running():
                ready.set()
                await stopped.wait()

        thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
        thread.start()
        ready.wait(10)
        try:
            yield self
        finally:
            loop, stopped = stop
            loop.call_soon_threadsafe(stopped.set)
            thread.join(10)

    def kubeconfig(self, token=MESHWARD):
        return kubeconfig(self.directory / f"{token}.json", self.url, token)

    def pod(self, namespace, name, account, node, phase="Running", uid=None):
        uid = uid or f"uid-of-{name}"
        self.pods[namespace, name] = {
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "spec": {"serviceAccountName": account, "nodeName": node},
            "status": {"phase": phase},
        }
        return uid

    def remove_pod(self, namespace, name):
        del self.pods[namespace, name]

    def accept(self, token, namespace, account, *, audiences=("istio-ca",), pod=None, **changed):
        """Know a token, bound to a pod if there is one; `changed` is what its review has instead of the usual."""
        extra = {}
        if pod is not None:
            found = self.pods[namespace, pod]
            extra = {"pod-name": pod, "pod-uid": found["metadata"]["uid"], "node-name": found["spec"]["nodeName"]}
        user = {
            "username": f"system:serviceaccount:{namespace}:{account}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
            "extra": {EXTRA + name: [value] for name, value in extra.items()},
        }
        self._accounts[token] = (user | changed, audiences)
        return token

    async def _serve(self, request):
        self.calls.append(f"{request.method} {request.path}")
        if self.behaviour is not None:
            return await self.behaviour(request)
        if request.headers.get("authorization") != f"Bearer {MESHWARD}":
            return _status(403 if NOBODY in request.headers.get("authorization", "") else 401)
        match request.method, *request.path.strip("/").split("/"):
            case "POST", "apis", "authentication.k8s.io", "v1", "tokenreviews":
                return self._review(await request.json())
            case "GET", "api", "v1", "namespaces", namespace, "pods":
                return self._list(namespace, request.query.get("fieldSelector", ""))
            case "GET", "api", "v1", "namespaces", namespace, "pods", name:
                pod = self.pods.get((namespace, name))
                return web.json_response(pod) if pod else _status(404)
        return _status(404)

    def _review(self, review):
        spec = review["spec"]
        user, audiences = self._accounts.get(spec["token"], (None, ()))
        wanted = spec.get("audiences") or [*audiences, "api"]
        shared = [audience for audience in wanted if audience in audiences or not audiences]
        if user is None or not shared:
            status: dict = {"user": {}, "error": "[invalid bearer token, unknown]"}
        else:
            status = {"authenticated": True, "user": user, "audiences": shared}
        return web.json_response({"kind": "TokenReview", "status": status}, status=201)

    def _list(self, namespace, selector):
        wanted = [part.partition("=") for part in selector.replace("!=", "≠=").split(",") if part]
        items = [
            pod
            for (where, _), pod in self.pods.items()
            if where == namespace and all(_selected(pod, *part) for part in wanted)
        ]
        return web.json_response({"kind": "PodList", "items": items[:1]})


def _selected(pod, field, _, value):
    area, _, name = field.rstrip("≠").partition(".")
    return (pod[area][name] == value) is not field.endswith("≠")


def _status(code):
    return web.json_response({"kind": "Status", "status": "Failure", "code": code}, status=code)


def answers(status=200, content=b"{}"):
    """Answer every request with this."""

    async def behave(_request):
        return web.Response(status=status, body=content if isinstance(content, bytes) else json.dumps(content).encode())

    return behave


async def hangs(request):
    """Never answer."""
    await request.app[STOPPING].wait()
    return _status(503)

"""The demo's workloads, an echo and a relay: `python -m app.demo.echo NAME PORT [--through URL]`."""

import argparse
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.demo.place import HOST

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# An echo has no use for more, and the demo must not be a way to fill this machine's memory.
MAX_BODY_BYTES = 64 * 1024
RELAY_TIMEOUT_SECONDS = 10.0
# RFC 9110, section 7.6.1: these are about one connection; length and encoding are computed again.
HOP_BY_HOP = frozenset(
    {
        *("connection", "content-encoding", "content-length", "host", "keep-alive"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)


def echo_app(name: str) -> Starlette:
    """Return an application that answers every request with what reached it: method, path, headers, size."""

    async def echo(request: Request) -> Response:
        body = await _body(request)
        seen = {
            "workload": name,
            "method": request.method,
            "path": request.url.path,
            "query": request.url.query,
            "headers": {key: ", ".join(request.headers.getlist(key)) for key in request.headers},
            "body_bytes": len(body),
        }
        return Response(json.dumps(seen, indent=2) + "\n", media_type="application/json")

    return Starlette(routes=[Route("/{path:path}", echo, methods=METHODS)])


def relay_app(through: str, transport: httpx.AsyncBaseTransport | None = None) -> Starlette:
    """Return an application that relays requests to the URL `through`, and answers 502 if nothing answers there."""
    client = httpx.AsyncClient(base_url=through, timeout=RELAY_TIMEOUT_SECONDS, transport=transport, trust_env=False)

    async def relay(request: Request) -> Response:
        body = await _body(request)
        # Path and query as they came, so that the sidecar decides about what was really requested.
        query = request.scope["query_string"]
        raw_path = request.scope["raw_path"] + (b"?" + query if query else b"")
        target, headers = httpx.URL(through).copy_with(raw_path=raw_path), _end_to_end(request.headers.items())
        try:
            answer = await client.request(request.method, target, headers=headers, content=body)
        except httpx.HTTPError as error:
            return Response(f"no answer from {through}: {error or type(error).__name__}\n", 502)
        response = Response(answer.content, answer.status_code)
        for key, value in _end_to_end(answer.headers.multi_items()):
            response.headers.append(key, value)
        return response

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    return Starlette(routes=[Route("/{path:path}", relay, methods=METHODS)], lifespan=lifespan)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve one workload until a signal ends it."""
    parser = argparse.ArgumentParser(description="A workload of the demo")
    parser.add_argument("name")
    parser.add_argument("port", type=int)
    parser.add_argument("--through", help="relay to this URL instead of answering")
    options = parser.parse_args(arguments)
    app = relay_app(options.through) if options.through else echo_app(options.name)
    uvicorn.run(app, host=HOST, port=options.port, log_level="warning", access_log=False, server_header=False)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _end_to_end(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(key, value) for key, value in headers if key.lower() not in HOP_BY_HOP]


if __name__ == "__main__":
    main()

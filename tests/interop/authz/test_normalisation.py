"""A real Envoy that normalises paths: what it sends on is what a policy is compared with, and a reading besides."""

import asyncio

import pytest

from app.authz.rules.paths import normalised, read_path
from tests.support.envoy_process import EnvoyProcess
from tests.support.targets import KNOWN, is_among_readings, random_targets

FILTERS = "envoy.extensions.filters"


def listener(name, **normalisation):
    manager = {
        "@type": f"type.googleapis.com/{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                    "response_headers_to_add": [{"header": {"key": "x-path", "value": "%REQ(:PATH)%"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"type.googleapis.com/{FILTERS}.http.router.v3.Router"},
            }
        ],
        **normalisation,
    }
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


class Client:
    """A client that changes nothing in a target, over one connection as long as Envoy keeps it."""

    def __init__(self, port):
        self._port, self._writer = port, None

    async def sent_on(self, target):
        """The path that Envoy would send on for `target`, None if it refuses the request."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        async with asyncio.timeout(20):
            head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        if b" 200 " not in lines[0]:
            await self.close()
        return next((line[8:] for line in lines if line.startswith(b"x-path: ")), None)

    async def close(self):
        if self._writer is not None:
            self._writer.close()
            await self._writer.wait_closed()
            self._writer = None


@pytest.mark.parametrize(
    "normalisation",
    [
        {"normalize_path": True},
        {"normalize_path": True, "merge_slashes": True},
        {
            "normalize_path": True,
            "merge_slashes": True,
            "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
        },
    ],
    ids=["base", "merged", "decoded-and-merged"],
)
async def test_what_envoy_sends_on_is_a_reading_and_compared_as_it_is(tmp_path, normalisation):
    bootstrap = {"static_resources": {"listeners": [listener("in", **normalisation)]}}
    async with EnvoyProcess.started(bootstrap, tmp_path) as envoy:
        client = Client(await envoy.port_of("in"))
        for target in (*KNOWN, *random_targets(3000)):
            path = await client.sent_on(target)
            if path is not None:
                # Envoy merges a path of slashes alone to two of them.
                assert is_among_readings(target, b"/" if path == b"//" else path), target
                found = read_path(path.decode())
                assert found.problem or normalised(path.decode()) == path.decode(), target
        await client.close()

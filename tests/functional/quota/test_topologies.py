"""Ways to reach Valkey: sockets, TLS, users, sentinels, a cluster; and several processes that count one limit."""

import itertools
import json
import ssl
import subprocess
import sys

import pytest
from structlog.testing import capture_logs
from valkey.crc import key_slot

from app.core.errors import UnavailableError
from app.core.net import Address
from app.quota.backends.valkey.servers import StoreFiles, slots_of
from app.quota.backends.valkey.wire import key_of
from app.quota.model import FixedWindow, Hit
from app.telemetry.metrics import Metrics
from tests.assets.certificates import MeshCa
from tests.fakes.quota import settled
from tests.support.counters import CounterStoreContract
from tests.support.counting import available, counting
from tests.support.proxy import proxied
from tests.support.serving import eventually_async
from tests.support.valkey import cluster_port, cluster_started, sentinels_started, valkey_started

LIMIT = 50
ACL = "~t:* +eval +evalsha +script +time +get +mget +set +del"


def hit(name="k", hits=1):
    return Hit("limit", (name,), FixedWindow(LIMIT, 86_400), hits)


async def remaining(counters, name="k"):
    (outcome,) = await settled(counters.add([hit(name)]))
    return outcome.remaining


async def test_a_unix_socket_and_a_database(valkey_server):
    async with counting(f"unix://{valkey_server.socket}?db=3") as counters:
        assert await remaining(counters, "unix") == LIMIT - 1
    with valkey_server.client(db=3) as client:
        assert len([key for key in client.scan_iter() if b"probe" not in key]) == 1
        client.flushdb()


async def test_a_user_with_no_more_than_the_guide_says(tmp_path):
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    with valkey_started("user default off", f"user quota on >s3cret {ACL}") as server:
        for url, files in (
            (f"valkey://quota:s3cret@127.0.0.1:{server.port}", StoreFiles()),
            (f"valkey://quota@127.0.0.1:{server.port}", StoreFiles(password=password)),
            (f"unix://quota:s3cret@{server.socket}", StoreFiles()),
        ):
            async with counting(url, files=files) as counters:
                assert await remaining(counters, url) == LIMIT - 1


@pytest.mark.parametrize("url", ["valkey://quota:hunter2@127.0.0.1:{}", "valkey://127.0.0.1:{}"])
async def test_a_wrong_password_is_access_denied_and_never_logged(url, capfd):
    with valkey_started("user default off", f"user quota on >s3cret {ACL}") as server, capture_logs() as lines:
        async with counting(url.format(server.port), wait=False):
            await eventually_async(lambda: logged(lines, "access_denied"), "a refusal")
    assert "hunter2" not in json.dumps(lines, default=repr)
    assert "hunter2" not in "".join(capfd.readouterr())


async def test_a_missing_password_file_is_a_reason_and_not_a_crash(tmp_path, valkey_server):
    with capture_logs() as lines:
        files = StoreFiles(password=tmp_path / "none")
        async with counting(valkey_server.url, files=files, wait=False) as counters:
            await eventually_async(lambda: logged(lines, "connection"), "a reason")
            assert not (await settled(counters.add([hit()])))[0].allowed


async def logged(lines, reason):
    return any(line.get("reason") == reason for line in lines)


def tls_server(directory, **names):
    """The context of a TLS server with a certificate for `names`, whose authority is in the file `ca`."""
    authority = MeshCa()
    key, certificate = authority.serving(**names)
    for name, content in (("ca", authority.roots.encode()), ("cert", certificate), ("key", key)):
        (directory / name).write_bytes(content)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=directory / "ca")
    context.load_cert_chain(directory / "cert", directory / "key")
    return context


async def test_tls_with_a_client_certificate(tmp_path, valkey_server):
    context = tls_server(tmp_path)
    context.verify_mode = ssl.CERT_REQUIRED
    files = StoreFiles(ca=tmp_path / "ca", certificate=tmp_path / "cert", key=tmp_path / "key")
    async with (
        proxied(valkey_server.port, tls=context) as proxy,
        counting(f"valkeys://127.0.0.1:{proxy.port}", files=files) as counters,
    ):
        assert await remaining(counters, "tls") == LIMIT - 1


@pytest.mark.parametrize(
    ("wrong", "reason"), [("unknown authority", "tls"), ("another name", "tls"), ("no TLS", "timeout")]
)
async def test_a_server_that_does_not_prove_its_name_is_not_used(wrong, reason, tmp_path, valkey_server):
    context = tls_server(tmp_path, **({"ips": ("127.0.0.9",)} if wrong == "another name" else {}))
    files = StoreFiles() if wrong == "unknown authority" else StoreFiles(ca=tmp_path / "ca")
    async with proxied(valkey_server.port, tls=None if wrong == "no TLS" else context) as proxy:
        with capture_logs() as lines:
            async with counting(f"valkeys://127.0.0.1:{proxy.port}", files=files, wait=False) as counters:
                await eventually_async(lambda: logged(lines, reason), "a refusal")
                assert not (await settled(counters.add([hit()])))[0].allowed


async def test_the_primary_is_found_by_sentinels_and_followed_when_another_takes_over():
    with sentinels_started() as (primary, replica, sentinels):
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        metrics = Metrics()
        async with counting(f"valkey+sentinel://{hosts}/main", metrics=metrics) as counters:
            assert await remaining(counters) == LIMIT - 1
            with primary.client() as client:
                client.execute_command("WAIT", 1, 5000)
            primary.kill()
            await eventually_async(lambda: counted_at(counters, LIMIT - 2), "the replica to take over", 60)
        with replica.client() as client:
            assert client.info("replication")["role"] == "master"


@pytest.mark.parametrize(("password", "reason"), [("s3cret", None), ("wrong", "connection")])
@pytest.mark.parametrize("user", ["", "asking"])
async def test_sentinels_are_asked_with_their_own_password(user, password, reason, tmp_path, valkey_server):
    (tmp_path / "password").write_text(password)
    files = StoreFiles(sentinel_password=tmp_path / "password", sentinel_user=user)
    watch = f"sentinel monitor main 127.0.0.1 {valkey_server.port} 1"
    only = ("user default off", "user asking on >s3cret allchannels +@all") if user else ("requirepass s3cret",)
    with valkey_started(watch, *only, sentinel=True) as sentinel, capture_logs() as lines:
        url = f"valkey+sentinel://127.0.0.1:{sentinel.port}/main"
        async with counting(url, files=files, wait=reason is None) as counters:
            if reason is None:
                assert await remaining(counters, f"asked by {user}") == LIMIT - 1
            else:
                await eventually_async(lambda: logged(lines, reason), "a refusal")
                assert not (await settled(counters.add([hit()])))[0].allowed


async def test_sentinels_are_asked_over_tls(tmp_path, valkey_server):
    context = tls_server(tmp_path)
    files = StoreFiles(ca=tmp_path / "ca")
    async with proxied(valkey_server.port, tls=context) as proxy:
        with valkey_started(f"sentinel monitor main 127.0.0.1 {proxy.port} 1", sentinel=True) as sentinel:
            async with (
                proxied(sentinel.port, tls=context) as asked,
                counting(f"valkeys+sentinel://127.0.0.1:{asked.port}/main", files=files) as counters,
            ):
                assert await remaining(counters, "over TLS") == LIMIT - 1


async def counted_at(counters, wanted):
    outcome = (await settled(counters.add([hit()])))[0]
    return outcome.allowed and outcome.remaining == wanted


class TestCluster(CounterStoreContract):
    @pytest.fixture
    async def counters(self, clock, valkey_cluster):
        for node in valkey_cluster:
            with node.client() as client:
                client.flushall()
        metrics = Metrics()
        async with counting(cluster_url(valkey_cluster[:1]), clock, metrics=metrics) as counters:
            await eventually_async(lambda: available(metrics, 3), "all nodes")
            yield counters

    @pytest.fixture
    def advance(self, clock):
        async def move(seconds):
            clock.advance(seconds)

        return move


def cluster_url(nodes):
    return "valkey+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


def owned(names, low, high):
    """Those of the names whose counters have a slot from `low` on below `high`."""
    return [name for name in names if low <= key_slot(key_of("t", "limit", (name,))) < high]


async def test_a_node_of_a_cluster_that_is_away_leaves_the_others_counting():
    with cluster_started() as nodes:
        metrics = Metrics()
        async with counting(cluster_url(nodes), metrics=metrics) as counters:
            await eventually_async(lambda: available(metrics, 3), "all nodes")
            names = [str(number) for number in range(60)]
            lost, kept = owned(names, 0, 5461), owned(names, 5461, 16384)
            nodes[0].kill()
            outcomes = dict(zip(names, await settled(counters.add([hit(name) for name in names])), strict=True))
            assert not any(outcomes[name].allowed for name in lost)
            assert all(outcomes[name].allowed for name in kept)
            assert {len(lost) > 5, len(kept) > 5} == {True}
            limits = {"limit": hit().algorithm}
            (known,) = await counters.read([("limit", (kept[0],))], limits)
            assert known.used == 1
            never = owned([f"never {name}" for name in names], 0, 5461)[0]
            for name in (lost[0], never):
                with pytest.raises(UnavailableError):
                    await counters.read([("limit", (name,)), ("limit", (kept[0],))], limits)


async def test_a_slot_that_moves_is_followed_and_keeps_its_counts():
    with cluster_started() as nodes:
        metrics = Metrics()
        async with counting(cluster_url(nodes), metrics=metrics) as counters:
            await eventually_async(lambda: available(metrics, 3), "all nodes")
            name = owned([str(number) for number in range(60)], 0, 5461)[0]
            assert await remaining(counters, name) == LIMIT - 1
            move_slot(key_slot(key_of("t", "limit", (name,))), nodes[0], nodes[1], nodes)
            assert await remaining(counters, name) == LIMIT - 2
            assert await remaining(counters, name) == LIMIT - 3


def begin_move(slot, source, target):
    """Have a slot move: new counters are at `target` from now on, those that are there already stay at `source`."""
    with source.client() as source_client, target.client() as target_client:
        source_id, target_id = (
            each.execute_command("CLUSTER MYID").decode() for each in (source_client, target_client)
        )
        target_client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
        source_client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
    return target_id


def move_slot(slot, source, target, nodes):
    target_id = begin_move(slot, source, target)
    with source.client() as client:
        for key in client.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
            client.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    for node in (target, source, *nodes):
        with node.client() as client:
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", target_id)


def names_of_a_slot(number):
    """A slot, and the names of so many counters that have it."""
    by_slot = {}
    names = map(str, itertools.count())
    while True:
        name = next(names)
        slot = key_slot(key_of("t", "limit", (name,)))
        found = by_slot.setdefault(slot, [])
        found.append(name)
        if slot < 5461 and len(found) == number:
            return slot, found


async def test_while_a_slot_moves_counters_are_found_at_both_nodes():
    slot, (old, new, newer) = names_of_a_slot(3)
    with cluster_started() as nodes:
        metrics = Metrics()
        async with counting(cluster_url(nodes), metrics=metrics) as counters:
            await eventually_async(lambda: available(metrics, 3), "all nodes")
            assert await remaining(counters, old) == LIMIT - 1
            begin_move(slot, nodes[0], nodes[1])
            # In one call some are here and some are not: the node cannot say where all of them are (TRYAGAIN).
            outcomes = await settled(counters.add([hit(old), hit(new), hit(new), hit(newer)]))
            assert [outcome.remaining for outcome in outcomes] == [LIMIT - 2, LIMIT - 1, LIMIT - 2, LIMIT - 1]
            assert await remaining(counters, new) == LIMIT - 3  # sent on to the other node (ASK)
            assert await remaining(counters, old) == LIMIT - 3
            with nodes[1].client() as client:
                assert len(client.execute_command("CLUSTER GETKEYSINSLOT", slot, 10)) == 2
            move_slot(slot, nodes[0], nodes[1], nodes)
            outcomes = await settled(counters.add([hit(old), hit(new), hit(newer)]))
            assert [outcome.remaining for outcome in outcomes] == [LIMIT - 4, LIMIT - 4, LIMIT - 2]


async def test_a_slot_that_moves_to_a_node_without_slots_is_found_there():
    slot, (old, new) = names_of_a_slot(2)
    with cluster_started() as nodes, valkey_started("cluster-enabled yes", port=cluster_port()) as added:
        with added.client() as client:
            client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)
        metrics = Metrics()
        async with counting(cluster_url(nodes), metrics=metrics) as counters:
            await eventually_async(lambda: available(metrics, 3), "all nodes")
            await remaining(counters, old)
            await eventually_async(lambda: knows(nodes, added), "the nodes to know each other")
            begin_move(slot, nodes[0], added)
            assert not (await settled(counters.add([hit(new)])))[0].allowed  # by policy, until it is connected to
            await eventually_async(lambda: available(metrics, 4), "the new node")
            assert await remaining(counters, new) == LIMIT - 1
            assert await remaining(counters, old) == LIMIT - 2


async def knows(nodes, added):
    found = []
    for node in (*nodes, added):
        with node.client() as client:
            found.append(str(client.execute_command("CLUSTER NODES")).count("connected"))
    return set(found) == {len(nodes) + 1}


@pytest.mark.parametrize(
    "reply", [[], None, [[0, 20_000, [b"h", 1]]], [[5, 1, [b"h", 1]]], [[0, 1]], [[0, 1, [b"h", b"x"]]], b"OK", [1]]
)
def test_slots_that_make_no_sense_are_refused(reply):
    with pytest.raises((ValueError, TypeError)):
        slots_of(reply, Address("asked", 1))


def test_a_node_without_an_address_is_the_one_that_was_asked():
    assert slots_of([[0, 5, [b"", 7]]], Address("asked", 1)) == {Address("asked", 7): [range(6)]}


WORKER = """
import asyncio, sys
from app.quota.backends.valkey.wire import key_of
from app.quota.model import FixedWindow, Hit
from tests.fakes.quota import settled
from tests.support.counting import counting

async def main(url, rounds):
    hits = [Hit("shared", ("k",), FixedWindow(1000, 86400), 1), Hit("other", ("k",), FixedWindow(1000, 86400), 2)]
    async with counting(url) as counters:
        answers = await asyncio.gather(*(settled(counters.add(hits)) for _ in range(rounds)))
    print(sum(each[0].allowed for each in answers), sum(2 * each[1].allowed for each in answers))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_several_processes_count_one_limit_exactly(valkey_server):
    with valkey_server.client() as client:
        client.flushall()
    command = [sys.executable, "-c", WORKER, valkey_server.url, "400"]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    admitted = [
        [int(number) for number in worker.communicate(timeout=60)[0].splitlines()[-1].split()] for worker in workers
    ]
    assert [sum(numbers) for numbers in zip(*admitted, strict=True)] == [1000, 1000]

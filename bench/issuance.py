"""What CreateCertificate costs beside what OpenSSL allows: one P-256 verification and one signature, in the same run.

In process, from the request message to the answer, P-256, each SVID recorded on SQLite with every write synced: alone,
and in a closed loop of 32. CPU time is the process', which another one on the machine cannot add to.
"""

import asyncio
import statistics
import time
from collections.abc import Callable
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.ca.model import IssuedSvid, Surface
from app.ca.rpc.istio import IstioCertificates
from app.ca.rules.csr import parse_csr
from app.ca.rules.leaf import LeafProfile, UnsignedLeaf, check_leaf
from app.ca.rules.log import entry_hash, svid_entry
from app.ca.rules.rotation import BACKDATE
from app.ca.service.signing import ToSign, sign_one
from app.ca.service.signing_requests import new_serial
from app.main.parts import Parts
from app.proto.istio.ca_pb2 import IstioCertificateRequest
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry import logs
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import Peer
from bench.loaded import loaded_parts

ROUNDS = 5
CALLS = 1_024
# As many identities, so that none reaches its budget of SVIDs an hour.
CALLERS = 64
PEER = Peer("127.0.0.1:1", local=True, tls=False)
SHA256 = ec.ECDSA(hashes.SHA256())


def floor() -> float:
    """Return the CPU microseconds of one verification and one signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    message, public_key = b"x" * 500, key.public_key()
    signature = key.sign(message, SHA256)
    return _best(lambda: public_key.verify(signature, message, SHA256)) + _best(lambda: key.sign(message, SHA256))


def _best(call: Callable[[], object], calls: int = 1_000) -> float:
    figures = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(calls):
            call()
        figures.append((time.process_time() - started) / calls * 1e6)
    return min(figures)


async def closed_loop(rpc: IstioCertificates, request: IstioCertificateRequest, at_once: int, calls: int) -> None:
    """Print what a call costs with so many of them in flight: the best round."""
    contexts = [
        CallContext("/m", PEER, principal=Principal(Credential.SVID, SpiffeId.parse(f"spiffe://cluster.local/w/{n}")))
        for n in range(CALLERS)
    ]

    async def caller(first: int) -> None:
        for number in range(first, calls, at_once):
            await rpc.create_certificate(request, contexts[number % CALLERS])

    cpu, wall = [], []
    for _ in range(ROUNDS):
        started, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller(first) for first in range(at_once)))
        wall.append((time.perf_counter() - started) / calls)
        cpu.append((time.process_time() - used) / calls * 1e6)
    share = floor() / min(cpu)
    print(f"{at_once} at once: {min(cpu):8.0f} µs CPU a call, {1 / min(wall):8,.0f} calls/s, {share:.0%} of the floor")


def request() -> IstioCertificateRequest:
    """Return a request for a new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return IstioCertificateRequest(csr=csr.public_bytes(serialization.Encoding.PEM).decode())


async def steps(parts: Parts, csr: str) -> None:
    """Print the median time of each step of a call that waits for nothing, repeated on its own."""
    caller, active, now = SpiffeId.parse("spiffe://cluster.local/w/0"), parts.ca.authorities.active(), parts.clock.now()
    profile = LeafProfile(caller, parse_csr(csr).public_key, new_serial(), now - BACKDATE, now + timedelta(hours=1))
    unsigned, key = UnsignedLeaf(profile, active.certificate), ec.generate_private_key(ec.SECP256R1())
    leaf = await sign_one(ToSign(profile, active), now)
    record = IssuedSvid("0" * 32, caller, active.signer.id, leaf.fingerprint, now, now, now, Surface.ISTIO_CA)
    timed: dict[str, Callable[[], object]] = {
        "read and verify the request": lambda: parse_csr(csr),
        "find the authority": parts.ca.authorities.active,
        "encode and sign the certificate": lambda: unsigned.sign(key, hashes.SHA256()),
        "read and verify it": lambda: check_leaf(leaf.pem, profile, active.chain, active.root, now),
        "entry of the log, and its hash": lambda: entry_hash(svid_entry(record)),
    }
    for name, step in timed.items():
        print(f"{name:<34}{_median(step):8.1f} µs")


def _median(call: Callable[[], object], calls: int = 1_000) -> float:
    figures = []
    for _ in range(calls):
        started = time.perf_counter_ns()
        call()
        figures.append(time.perf_counter_ns() - started)
    return statistics.median(figures) / 1000


async def measure() -> None:
    """Print the table."""
    message = request()
    print(f"CreateCertificate, P-256, recorded on SQLite; one verification and one signature: {floor():.0f} µs CPU")
    async with loaded_parts() as parts:
        rpc = IstioCertificates(parts.ca.issuance)
        await closed_loop(rpc, message, 1, CALLS // 8)
        await closed_loop(rpc, message, 32, CALLS)
        await steps(parts, message.csr)


def main() -> None:
    """Print the table."""
    logs.configure("error", "console")
    asyncio.run(measure())


if __name__ == "__main__":
    main()

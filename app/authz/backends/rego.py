"""The provider that evaluates Rego embedded: in child processes (`rego_worker.py`), or here if it ends soon.

What ends soon is known from the text (`rego_cost.py`), and is evaluated without a process being woken up for it.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

import structlog

from app.authz.backends.bundle_signature import KeyFile, verify_files
from app.authz.backends.grpc_messages import GrpcMessages
from app.authz.backends.kept_answers import KeptAnswers
from app.authz.backends.policy_source import Files, PolicySource
from app.authz.backends.rego_cost import Cost
from app.authz.backends.rego_engine import Loaded
from app.authz.backends.rego_files import read_policies
from app.authz.backends.rego_pool import RegoPool, Setup
from app.authz.backends.rego_wire import DECISION, FALSE, TRUE, UNDEFINED
from app.authz.model import CheckInput
from app.authz.providers import Answer
from app.authz.rules.opa import BodyReading, input_document, input_text, read_decision, read_reply
from app.authz.rules.parts import Parts
from app.core.clock import Clock
from app.core.errors import InvalidInputError, UnavailableError

# Characters of a bundle's revision that are reported.
MAX_REVISION = 64

_NOT_LOADED = Answer("its policies are not loaded yet", undecided=True)
_FIXED = {
    TRUE: read_decision(True),
    FALSE: read_decision(False),
    UNDEFINED: Answer("its decision is undefined", undecided=True),
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RegoOptions:
    """Where the policies are from and how they are evaluated.

    `query` is the path of the decision, `envoy/authz/allow`. `seconds` is how long an answer may take; `workers` how
    many processes evaluate. `v0`: the policies are written in Rego v0, whatever a bundle says. `cache_seconds`: how
    long an answer is kept for equal inputs if it may be another one later, 0 for not at all. `keys`: a bundle is signed
    by one of these, whose files are read when it is verified. `messages` reads bodies of gRPC; with `skip_bodies`, no
    body is read.
    """

    source: PolicySource
    query: str
    seconds: float
    workers: int
    v0: bool = False
    cache_seconds: float = 0.0
    keys: tuple[KeyFile, ...] = ()
    messages: GrpcMessages | None = None
    skip_bodies: bool = False


@dataclass(frozen=True, slots=True)
class _Active:
    """A set of policies: what evaluates it, and the parts of the input that it reads.

    Those whose cost is known are loaded in this process as well.
    """

    pool: RegoPool
    parts: Parts
    cost: Cost | None
    here: Loaded | None
    kept: KeptAnswers | None
    revision: str

    def retire(self) -> None:
        """Let it go once it has answered what it was sent."""
        self.pool.retire()
        if self.here is not None:
            self.here.close()

    async def close(self) -> None:
        """End its processes."""
        if self.here is not None:
            self.here.close()
        await self.pool.close()


class RegoProvider:
    """Decides by Rego policies, all of them or none: what is not valid leaves the ones before active.

    `on_loaded` is called with the revision that is active from then on, and the one before.
    """

    def __init__(
        self,
        name: str,
        options: RegoOptions,
        clock: Clock,
        on_loaded: Callable[[str, str], None] = lambda _revision, _before: None,
    ) -> None:
        self._name, self._options, self._clock, self._on_loaded = name, options, clock, on_loaded
        self._files: Files | None = None
        self._problem: InvalidInputError | None = None
        self._active: _Active | None = None
        self._loading = asyncio.Lock()
        self._reading = BodyReading(options.messages, options.skip_bodies)

    @property
    def loaded(self) -> bool:
        """Whether there are policies to decide by."""
        messages = self._options.messages
        return self._active is not None and (messages is None or messages.loaded)

    async def refresh(self) -> None:
        """Read the policies, and make them active if they were changed.

        Raises InvalidInputError that says what is wrong with them, UnavailableError if they cannot be read.
        """
        async with self._loading:
            if self._options.messages is not None:
                await self._options.messages.refresh()
            files = await self._options.source.read()
            if files == self._files:
                if self._problem is not None:
                    raise self._problem.with_traceback(None)
                return
            self._problem = None
            try:
                await self._activate(files)
            except InvalidInputError as error:
                self._files, self._problem = files, InvalidInputError(f"provider {self._name}: {error.message}")
                raise self._problem from error
            self._files = files
            await self._options.source.activated(files)

    async def _activate(self, files: Files) -> None:
        options = self._options
        if options.keys:
            await asyncio.to_thread(_verify, options.source.what, files, options.keys)
        policies = await asyncio.to_thread(read_policies, options.source.what, files)
        v0, query = options.v0 or policies.v0, f"data.{options.query.replace('/', '.')}"
        data = await asyncio.to_thread(json.dumps, policies.data)
        pool = RegoPool(Setup(policies.modules, data, query, options.seconds, options.workers, v0=v0))
        try:
            known = await pool.start()
            # A process has loaded them, so that they are valid; they are small, or there would be no cost.
            here = None if known.cost is None else Loaded(known.modules, data, query, v0=v0)
        except BaseException:
            await pool.close()
            raise
        revision = "".join(filter(str.isprintable, policies.revision))[:MAX_REVISION]
        kept = self._keeping(pure=known.pure)
        before, self._active = self._active, _Active(pool, known.parts, known.cost, here, kept, revision)
        if before is not None:
            before.retire()
        self._on_loaded(revision, "" if before is None else before.revision)
        _log.info("provider_loaded", provider=self._name, modules=len(policies.modules), revision=revision)

    async def close(self) -> None:
        """End the processes."""
        if self._active is not None:
            await self._active.close()
            self._active = None

    def __call__(self, request: CheckInput) -> Answer | Awaitable[Answer]:
        """Return the policies' decision. What goes wrong denies: no decision, another type, an error, no time."""
        active = self._active
        if active is None:
            return _NOT_LOADED
        try:
            text = input_text(input_document(request, active.parts, self._reading))
        except InvalidInputError as error:
            return Answer(error.message, undecided=True)
        kept = active.kept
        if kept is not None and (answer := kept.get(text)) is not None:
            return answer
        if active.here is None or active.cost is None or not active.cost.fits(text):
            return _evaluated(active, text)
        answer = _read(active.here.reply(text), active.revision)
        if kept is not None:
            kept.keep(text, answer)
        return answer

    def _keeping(self, *, pure: bool) -> KeptAnswers | None:
        """Return where answers are kept: what is decided the same later, until the policies change."""
        seconds = self._options.cache_seconds
        return KeptAnswers(self._clock, None if pure else seconds) if pure or seconds else None


async def _evaluated(active: _Active, text: bytes) -> Answer:
    try:
        answer = _read(await active.pool.evaluate(text), active.revision)
    except UnavailableError as error:
        return Answer(error.message, undecided=True)
    if active.kept is not None:
        active.kept.keep(text, answer)
    return answer


def _read(found: bytes, revision: str) -> Answer:
    """Return the answer in a reply; a denial says by which revision."""
    answer = _FIXED.get(found)
    if answer is None and found.startswith(DECISION):
        answer = read_reply(found[1:])
    elif answer is None:
        answer = Answer(f"its evaluation failed: {found[1:].decode(errors='replace')}", undecided=True)
    return replace(answer, denial=f"{answer.denial}, revision {revision}") if revision and answer.denial else answer


def _verify(what: str, files: Files, keys: Iterable[KeyFile]) -> None:
    try:
        verify_files(files, {key.key_id: key.read() for key in keys})
    except InvalidInputError as error:
        raise InvalidInputError(f"{what}: {error.message}") from error

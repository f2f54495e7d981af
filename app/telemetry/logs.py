"""Structured logs: JSON or console lines on standard error, for our own events and for the libraries' alike.

What must never be in a log is taken out here, last of all, wherever it came from; and no value can make up a line of
its own.
"""

import logging
import re
import sys
import uuid
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console", "auto"]

MASK = "***"
# What one value may add to a log; the rest is cut off. A traceback through a few libraries fits the second.
MAX_TEXT = 4_096
MAX_EXCEPTION = 32_768
# Collections inside each other and their items, for values that come from requests.
MAX_DEPTH = 6
MAX_ITEMS = 64

# Libraries speak when something is wrong; some of them, at debug level, would log headers and statements.
_FOREIGN_LEVEL = logging.WARNING

# A request id of a client is used only if it is harmless in a log line and in a header.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SECRET_KEY = re.compile(r"(?:[a-z0-9_.-]*[_.-])?(?:authorization|cookie|token|secret|password|passwd|private[_-]?key)")
_SECRETS_IN_TEXT = (
    (re.compile(r"(?i)\b(bearer|basic)\s{1,8}[A-Za-z0-9._~+/=-]+"), rf"\1 {MASK}"),
    (re.compile(r"(?<=://)([^/@:\s]{0,256}):[^/@\s]{1,256}@"), rf"\1:{MASK}@"),
    (re.compile(r"(?i)\b(token|secret|password|passwd)=[^\s&;,'\"]+"), rf"\1={MASK}"),
    (
        re.compile(r"-----BEGIN ([A-Z ]{0,32})PRIVATE KEY-----[A-Za-z0-9+/=\s\\]*(?:-----END [A-Z ]{0,48}-----)?"),
        f"{MASK} private key {MASK}",
    ),
)


class Stream(Protocol):
    """Where lines are written."""

    def write(self, text: str, /) -> object:
        """Write a line, or have it written."""
        ...

    def flush(self) -> None:
        """Have what was written read."""
        ...

    def isatty(self) -> bool:
        """Whether a person reads it."""
        ...


def configure(level: Level, form: Format, stream: Stream = sys.stderr) -> None:
    """Set logging up for this process: everything from `level` on goes to `stream`, a line each.

    `auto` is `console` on a terminal and `json` elsewhere. Values bound with `structlog.contextvars` (the request's
    id) are on every line that is written in their context.
    """
    console = form == "console" or (form == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                mask_secrets,
                *((escape_controls, _console(stream)) if console else (structlog.processors.JSONRenderer(),)),
            ],
        )
    )
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_FOREIGN_LEVEL)
    logging.getLogger("app").setLevel(logging.getLevelNamesMapping()[level.upper()])


def request_id(given: str | None) -> str:
    """Return the id under which a request is logged: the one that its client gave if it is harmless, else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace what is secret, by its key or by its form, in every value of the event, and cut off what is too long."""
    return {key: _masked(key, value, 0) for key, value in event.items()}


def escape_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Spell out line breaks and control characters, so that a value stays on its line; a traceback is indented."""
    escaped: dict[str, Any] = {}
    for key, value in event.items():
        if key in {"exception", "stack"}:
            escaped[key] = "\n".join(f"  | {_printable(line)}" for line in str(value).split("\n"))
        else:
            escaped[_printable(key)] = _printable(value) if isinstance(value, str) else value
    return escaped


def _console(stream: Stream) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )


def _masked(key: str, value: Any, depth: int) -> Any:
    if isinstance(key, str) and _SECRET_KEY.fullmatch(key[:256].lower()) and value is not None:
        return MASK
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {str(name): _masked(str(name), item, depth + 1) for name, item in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked("", item, depth + 1) for item in list(value)[:MAX_ITEMS]]
    return _masked_text(
        value if isinstance(value, str) else _spelled(value), MAX_EXCEPTION if key == "exception" else MAX_TEXT
    )


def _spelled(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a value that cannot be spelled must not cost the line
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _masked_text(text: str, limit: int) -> str:
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text) - limit} more)"
    for pattern, replacement in _SECRETS_IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)

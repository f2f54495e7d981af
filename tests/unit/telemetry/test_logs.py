"""Logs: one line an event, from us and from libraries, with no secret in it and no line made up by a value."""

import io
import json
import logging
import warnings

import pytest
import structlog

from app.telemetry.logs import MAX_TEXT, configure


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines(level="info", form="json", name="app.test", stream=None):
    """Return a logger and a function that reads what was written."""
    stream = stream or io.StringIO()
    configure(level, form, stream)
    return structlog.get_logger(name), lambda: stream.getvalue().splitlines()


def test_an_event_is_one_json_object_on_one_line():
    log, read = lines()
    log.info("svid_issued", spiffe_id="spiffe://cluster.local/ns/shop/sa/cart", ttl=60, names=("a", "b"))
    (line,) = read()
    event = json.loads(line)
    assert event["event"] == "svid_issued"
    assert event["level"] == "info"
    assert event["logger"] == "app.test"
    assert event["ttl"] == 60
    assert event["names"] == ["a", "b"]
    assert event["timestamp"].endswith("Z")


def test_what_is_below_the_level_is_left_out():
    log, read = lines(level="warning")
    log.info("quiet")
    log.warning("loud")
    assert [json.loads(line)["event"] for line in read()] == ["loud"]


def test_the_request_id_is_on_every_line_of_its_context():
    log, read = lines()
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        log.info("inside")
        logging.getLogger("sqlalchemy.pool").warning("library inside")
    log.info("outside")
    events = [json.loads(line) for line in read()]
    assert [event.get("request_id") for event in events] == ["r-1", "r-1", None]


def test_libraries_are_heard_when_something_is_wrong_and_in_the_same_form():
    _, read = lines(level="debug")
    logging.getLogger("uvicorn.error").warning("odd %s", "request")
    for name in ("aiosqlite", "hpack.hpack", "httpcore.http11", "sqlalchemy.engine", "uvicorn.access"):
        logging.getLogger(name).debug("a header or a statement")
        logging.getLogger(name).info("a header or a statement")
    (line,) = read()
    assert json.loads(line)["event"] == "odd request"
    assert json.loads(line)["logger"] == "uvicorn.error"


def test_warnings_are_logged():
    _, read = lines()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
    assert "deprecated" in json.loads(read()[0])["event"]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "values",
    [
        {"token": "hunter2"},
        {"join_token": "hunter2"},
        {"Authorization": "Bearer hunter2"},
        {"admin_password": "hunter2"},
        {"client-secret": b"hunter2"},
        {"private_key": b"-----BEGIN PRIVATE KEY-----\nhunter2"},
        {"headers": {"authorization": "hunter2", "set-cookie": "hunter2"}},
        {"headers": [{"x-api-token": "hunter2"}]},
        {"text": "sent Authorization: Bearer hunter2hunter2"},
        {"text": "postgresql+asyncpg://mesh:hunter2@db/mesh is away"},
        {"text": "postgresql+asyncpg:///mesh?password=hunter2&x=1"},
        {"url": "/v1/things?token=hunter2"},
        {"pem": "-----BEGIN EC PRIVATE KEY-----\nhunter2+hunter2\n-----END EC PRIVATE KEY-----"},
        {"pem": b"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----"},
    ],
)
def test_secrets_are_masked_by_key_and_by_form(form, values):
    log, read = lines(form=form)
    log.info("event", **values)
    assert "hunter2" not in "".join(read())
    assert "***" in "".join(read())


def test_secrets_of_an_exception_are_masked_as_well():
    log, read = lines()
    log.error("failed", exc_info=RuntimeError("Bearer hunter2hunter2 at postgresql+asyncpg://mesh:hunter2@db/mesh"))
    (line,) = read()
    assert "hunter2" not in line
    assert "RuntimeError" in json.loads(line)["exception"]


def test_secrets_of_libraries_are_masked_as_well():
    _, read = lines()
    logging.getLogger("uvicorn.error").error("cannot connect to %s", "postgresql://mesh:hunter2@db/mesh")
    assert "hunter2" not in "".join(read())


def test_what_only_sounds_like_a_secret_is_told():
    log, read = lines()
    log.info("join_token_made", token_id="0123", key_type="P-256", tokens=3)
    event = json.loads(read()[0])
    assert (event["token_id"], event["key_type"], event["tokens"]) == ("0123", "P-256", 3)


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("mark", ["\n", "\r", "\x1b[2J", "\x85", "\u2028", "\u202e", "\x00", "\x08"])
def test_a_value_stays_on_its_line(form, mark):
    log, read = lines(form=form)
    hostile = f"a{mark}2026-01-01T00:00:00Z [info] forged"
    log.info("event", path=hostile, nested={"a": hostile})
    log.info(hostile)
    logging.getLogger("uvicorn.error").warning(hostile)
    text = "\n".join(read())
    assert len(read()) == 3
    assert mark not in text or mark == "\n"


def test_the_message_of_an_exception_cannot_look_like_a_line_of_its_own():
    log, read = lines(form="console")
    log.error("failed", exc_info=RuntimeError("a\n2026-01-01T00:00:00Z [info] forged\x1b[2J"))
    forged = [line for line in read() if "forged" in line]
    assert all(line.startswith("  | ") for line in forged)
    assert "\x1b" not in "".join(read())


def test_colours_are_for_terminals():
    log, read = lines(form="auto", stream=Terminal())
    log.info("event")
    assert "\x1b[" in read()[0]
    log, read = lines(form="console")
    log.info("event")
    assert "\x1b[" not in read()[0]


def test_auto_is_json_where_nobody_looks():
    log, read = lines(form="auto")
    log.info("event")
    assert json.loads(read()[0])["event"] == "event"


def test_a_value_of_any_size_and_kind_costs_one_bounded_line():
    class Unspeakable:
        def __str__(self):
            raise ValueError("no")

    deep: object = "x"
    for _ in range(100):
        deep = [deep]
    log, read = lines()
    log.info("event", long="x" * 1_000_000, deep=deep, many=list(range(10_000)), odd=Unspeakable(), error=OSError(2))
    (line,) = read()
    assert len(line) < 2 * MAX_TEXT
    assert "Unspeakable" in json.loads(line)["odd"]


def test_masking_takes_no_longer_for_hostile_text():
    log, read = lines()
    for hostile in ("bearer " * 600, "://" + "a:" * 2000, "-----BEGIN " * 400, "token=" * 700):
        log.info("event", text=hostile)
    assert len(read()) == 4

import asyncio
import io

import httpx
import pytest

from app.core.errors import UnavailableError
from app.demo.children import Children
from app.demo.steps import Failure, Screen, Step, UnexpectedError, run_steps, screen_on
from tests.fakes.clock import ManualClock


class Stream(io.StringIO):
    def __init__(self, encoding, *, terminal):
        super().__init__()
        self._encoding = encoding
        self._terminal = terminal

    @property
    def encoding(self):  # type: ignore[override]  # a stream of the process has a fixed one, too
        return self._encoding

    def isatty(self):
        return self._terminal


async def run(tmp_path, *steps):
    stream = Stream("utf-8", terminal=False)
    async with Children(tmp_path) as children:
        failure = await run_steps(steps, children, ManualClock(), Screen(stream))
    return failure, stream.getvalue().splitlines()


def seeing(text):
    async def look():
        return text

    return look


def raising(error):
    async def look():
        raise error

    return look


async def test_each_step_is_shown_with_a_tick_and_what_it_saw(tmp_path):
    failure, lines = await run(tmp_path, Step("one", seeing("this")), Step("two", seeing("that")))
    assert failure is None
    assert [line.split() for line in lines] == [
        ["✔", "one", "this", "(0.0", "s)"],
        ["✔", "two", "that", "(0.0", "s)"],
    ]


async def test_a_failed_step_is_the_last_and_shows_the_log_that_explains_it(tmp_path):
    (tmp_path / "api-envoy.log").write_text("first\nlast words\n")
    wrong = UnexpectedError("200", "503 no healthy upstream", "api-envoy")
    failure, lines = await run(tmp_path, Step("allowed", raising(wrong), ("control-plane",)), Step("two", seeing("x")))
    assert failure == Failure("allowed", "200", "503 no healthy upstream", (("api-envoy", ("first", "last words")),))
    assert "\n".join(lines) == (
        "  ✘ allowed\n"
        "      expected: 200\n"
        "      seen:     503 no healthy upstream\n"
        "      the end of the log of api-envoy:\n"
        "        first\n"
        "        last words"
    )


async def test_an_error_that_names_no_log_is_explained_by_those_of_the_step(tmp_path):
    (tmp_path / "control-plane.log").write_text("why\n")
    failure, _ = await run(
        tmp_path, Step("ready", raising(UnavailableError("database away")), ("control-plane", "web"))
    )
    assert failure.seen == "database away"
    assert failure.logs == (("control-plane", ("why",)), ("web", ()))


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (httpx.ConnectError("connection refused"), "connection refused"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
async def test_a_request_without_an_answer_is_a_failure_with_its_reason(tmp_path, error, seen):
    failure, _ = await run(tmp_path, Step("allowed", raising(error), ("web",)))
    assert failure.seen == seen
    assert [name for name, _ in failure.logs] == ["web"]


async def test_a_step_that_never_ends_fails_in_bounded_time(tmp_path):
    failure, _ = await run(tmp_path, Step("ready", asyncio.get_running_loop().create_future, ("web",), seconds=0.01))
    assert failure.seen == "nothing within 0.01 s"


async def test_a_fault_of_the_demo_is_not_a_failed_step(tmp_path):
    with pytest.raises(ZeroDivisionError):
        await run(tmp_path, Step("one", raising(ZeroDivisionError())))


def shown(**style):
    """Return a screen and the stream that it writes to."""
    stream = io.StringIO()
    return Screen(stream, **style), stream


def test_the_duration_of_a_step_is_shown():
    screen, stream = shown()
    screen.seen("ready", "all well", 1.26)
    assert stream.getvalue().endswith("all well (1.3 s)\n")


def test_an_empty_log_is_shown_as_empty():
    screen, stream = shown()
    screen.failed(Failure("t", "e", "s", (("web", ()),)))
    assert "(empty)" in stream.getvalue()


def test_only_terminals_get_colours(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert screen_on(Stream("utf-8", terminal=True)).colour
    assert not screen_on(Stream("utf-8", terminal=False)).colour
    monkeypatch.setenv("NO_COLOR", "1")
    assert not screen_on(Stream("utf-8", terminal=True)).colour


def test_a_running_step_is_shown_on_a_terminal_and_overwritten():
    stream = Stream("utf-8", terminal=True)
    screen = screen_on(stream)
    screen.running("waiting")
    screen.line("done")
    assert stream.getvalue() == "\r\x1b[K  … waiting\r\x1b[Kdone\n"


def test_nothing_is_overwritten_where_it_would_stay():
    stream = Stream("utf-8", terminal=False)
    screen = screen_on(stream)
    screen.running("waiting")
    screen.line("done")
    assert stream.getvalue() == "done\n"


def test_a_coloured_line_ends_in_plain():
    (coloured, written), (plain, unpainted) = shown(colour=True), shown()
    for screen in (coloured, plain):
        screen.seen("ready", "x", 0)
    assert written.getvalue().count("\x1b[0m") == 2
    assert "\x1b" not in unpainted.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "no-such-encoding", None])
def test_an_output_that_cannot_encode_ticks_gets_words(encoding):
    screen = screen_on(Stream(encoding, terminal=False))
    assert (screen.tick, screen.cross) == ("ok", "FAILED")

"""Lines written by a thread: whoever logs never waits for whoever reads, and what is left out is counted."""

import io
import json
import threading

import structlog

from app.telemetry import background as background_module
from app.telemetry.background import BackgroundStream, written_in_background
from app.telemetry.logs import configure

TIMELY = 10


class Reader(io.StringIO):
    """Takes nothing until `reads` is set; `stuck` is set once somebody waits for it."""

    def __init__(self):
        super().__init__()
        self.reads, self.stuck = threading.Event(), threading.Event()

    def write(self, text):
        self.stuck.set()
        assert self.reads.wait(TIMELY)
        return super().write(text)


def test_lines_are_written_in_their_order_before_the_end():
    stream = io.StringIO()
    with written_in_background(stream) as background:
        for number in range(1000):
            background.write(f"{number}\n")
    assert stream.getvalue().split() == [str(number) for number in range(1000)]


def test_a_reader_that_does_not_read_makes_nobody_wait_and_the_loss_is_told(monkeypatch):
    monkeypatch.setattr(background_module, "MAX_WAITING_CHARACTERS", 1000)
    reader = Reader()
    background = BackgroundStream(reader)
    configure("info", "json", background)
    log = structlog.get_logger("app.test")
    log.info("first")
    assert reader.stuck.wait(TIMELY)
    for _ in range(100):
        log.info("more")  # would wait for ever
    reader.reads.set()
    background.close()
    events = [json.loads(line) for line in reader.getvalue().splitlines()]
    assert [event["event"] for event in events][:2] == ["first", "more"]
    written = sum(event["event"] == "more" for event in events)
    assert 0 < written < 100
    assert [event["lines"] for event in events if event["event"] == "log_lines_left_out"] == [100 - written]


def test_a_stream_that_is_closed_ends_nothing():
    stream = io.StringIO()
    stream.close()
    with written_in_background(stream) as background:
        background.write("lost\n")
        background.write("lost\n")


def test_the_end_does_not_wait_for_a_reader_that_never_reads(monkeypatch):
    monkeypatch.setattr(background_module, "CLOSE_SECONDS", 0)
    reader = Reader()
    background = BackgroundStream(reader)
    background.write("stuck\n")
    background.close()
    reader.reads.set()

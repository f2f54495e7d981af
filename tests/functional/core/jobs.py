"""Jobs for a child process: it imports them by their names."""

import gc
import os
import time

from app.core.errors import InvalidInputError, Violation


def numbers(count):
    yield from range(count)


def process_id():
    yield os.getpid()


def settings():
    yield from (name for name in os.environ if name.startswith("MESHWARD_"))


def refuse():
    yield 1
    raise InvalidInputError("it is wrong", Violation("spec.x", "is not a field here"))


def fail():
    yield 1
    raise ZeroDivisionError


def die():
    yield 1
    os._exit(7)


def hang(begun=None):
    if begun is not None:
        begun.write_text(f"{os.getpid()}\n")
    yield os.getpid()
    time.sleep(600)


def speak_slowly(count):
    for number in range(count):
        time.sleep(0.2)
        yield number


def collects():
    yield gc.isenabled()

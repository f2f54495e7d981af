"""How a command fails: one sentence on standard error and a status, and a traceback only with `--debug`.

1: the command failed for the reason given. 2: wrong usage. 70 (EX_SOFTWARE of sysexits.h): a fault of
Meshward's own, whose traceback is in a file. 130: Ctrl-C.
"""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextvars import ContextVar

from app.core.errors import MeshwardError

FAILURE = 1
OWN_FAULT = 70
INTERRUPTED = 130

debug: ContextVar[bool] = ContextVar("debug", default=False)
"""Whether `--debug` was given: tracebacks are shown."""


def guarded(command: Callable[[], None]) -> int:
    """Run `command`, report its error if it raises one, and return the status to exit with."""
    try:
        command()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else FAILURE if ended.code else 0
    except MeshwardError as error:
        # Below the message, each violation that it does not contain.
        message = error.message
        more = [f"\n  {item}" for item in error.violations if str(item) not in message and item.problem != message]
        _report("".join([message, *more]))
        if debug.get():
            traceback.print_exc()
        return FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; Python would report it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except Exception as error:  # noqa: BLE001 - the last place where a fault of our own can become a sentence
        _report(_own_fault(error))
        return OWN_FAULT
    return 0


def _own_fault(error: Exception) -> str:
    sentence = f"a fault of Meshward's own: {type(error).__name__}: {error}"
    if debug.get():
        traceback.print_exc()
        return sentence
    with tempfile.NamedTemporaryFile("w", prefix="meshward-", suffix=".log", delete=False) as file:
        traceback.print_exc(file=file)
    return f"{sentence}; the traceback is in {file.name}"


def _report(text: str) -> None:
    sys.stderr.write(f"meshward: {text}\n")

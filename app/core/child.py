"""The child process of `offload`: reads a job, does it, and writes the items that it makes."""

import gc
import os
import signal
import sys
import traceback
from typing import IO

from app.core.errors import InternalError, MeshwardError
from app.core.offload import receive, send

# Decisions go first where there are few processors.
NICENESS = 10


def work(source: IO[bytes], sink: IO[bytes]) -> None:
    """Do the job in `source`."""
    job = receive(source)
    try:
        for item in job():
            send(sink, ("item", item))
    except MeshwardError as error:
        send(sink, ("error", error))
    except Exception:  # noqa: BLE001 - whatever it is, the parent is to know
        send(sink, ("error", InternalError(f"documents cannot be read: {traceback.format_exc(limit=-1)}")))
    send(sink, ("end", None))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to parent and child: the parent ends both
    os.nice(NICENESS)
    gc.disable()  # it ends when it is done
    work(sys.stdin.buffer, sys.stdout.buffer)

"""Run a program that ends when its parent does, even if the parent is killed.

Used as `python -I -S launch.py PARENT_PID PROGRAM ARGUMENT…`. Setting this up in a process of its own, before the
program replaces it, keeps Python code out of the gap between fork and exec, where it may deadlock.
"""

import ctypes
import os
import signal
import sys

# prctl(2): the signal that this process gets when its parent ends; it survives execve(2).
PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Ask the kernel to send SIGTERM to this process when its parent ends. Does nothing where only Linux can."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("the process that started this one has ended")


def main(arguments: list[str]) -> None:
    """Become the program named in `arguments`, which are the parent's pid, the program and its own arguments."""
    end_with_parent(int(arguments[0]))
    try:
        os.execv(arguments[1], arguments[1:])  # noqa: S606 - to be replaced by a program, without a shell, is the point
    except OSError as error:
        sys.exit(f"cannot run {arguments[1]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""A file system that can be filled up: a small one in memory, which root alone can mount."""

import os
import shutil
import subprocess

import pytest

SIZE_BYTES = 8 << 20


class SmallDisk:
    """A directory on a file system of SIZE_BYTES."""

    def __init__(self, directory) -> None:
        self.directory, self._ballast = directory, directory / "ballast"

    def fill(self):
        """Take every byte that is left."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 16, 1):
                try:
                    while file.write(b"x" * size):
                        pass
                except OSError:
                    continue

    def free(self):
        self._ballast.unlink()


def mounted(directory):
    """Mount such a file system at the directory, or skip the test; yields it and unmounts it."""
    directory.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a file system to fill up")
    options = f"size={SIZE_BYTES},mode=0700"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr}")
    try:
        yield SmallDisk(directory)
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)

"""Real peers that pip does not install: Go programs, in a cache outside the tree."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class GoProgram:
    """A Go program at one version of its module, built by hand with `install`, for it takes minutes."""

    package: str
    version: str

    @property
    def path(self):
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        return cache / "meshward-peers" / self.version / self.package.rpartition("/")[2]

    @property
    def install(self):
        return f"GOBIN={self.path.parent} go install {self.package}@{self.version}"

    def required(self):
        """Return its path, or skip the test with the command that builds it."""
        if not self.path.exists():
            pytest.skip(f"needs {self.path.name}: {self.install}")
        return self.path


# Reads a directory of configurations as the service does at its start, by the same code, and exits.
RATELIMIT_CONFIG_CHECK = GoProgram(
    "github.com/envoyproxy/ratelimit/src/config_check_cmd", "v1.4.1-0.20260122083618-3fb702589d36"
)

"""Real peers that pip does not install: Go programs, in a cache outside the tree."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class GoProgram:
    """A Go program at one version of its module, built by `make peers`, for it takes minutes.

    `source` is the directory of a main and its go.mod, for a module that `go install` does not build.
    """

    package: str
    version: str
    source: Path | None = None

    @property
    def path(self):
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        return cache / "meshward-peers" / self.version / self.package.rpartition("/")[2]

    def required(self):
        """Return its path, or skip the test with the command that builds it."""
        if not self.path.exists():
            pytest.skip(f"needs {self.package}@{self.version}: run make peers")
        return self.path

    def build(self):
        """Build it unless it is built."""
        if self.path.exists():
            return
        if self.source is not None:
            subprocess.run(["go", "build", "-o", self.path, "."], cwd=self.source, check=True)
        else:
            environment = {**os.environ, "GOBIN": str(self.path.parent)}
            subprocess.run(["go", "install", f"{self.package}@{self.version}"], env=environment, check=True)


_RATELIMIT = "v1.4.1-0.20260122083618-3fb702589d36"
# Reads a directory of configurations as the service does at its start, by the same code, and exits.
RATELIMIT_CONFIG_CHECK = GoProgram("github.com/envoyproxy/ratelimit/src/config_check_cmd", _RATELIMIT)
RATELIMIT = GoProgram("github.com/envoyproxy/ratelimit/src/service_cmd", _RATELIMIT)
_ISTIO = "v0.0.0-20260827124520-eed52ebb66ad"
PILOT_AGENT = GoProgram("istio.io/istio/pilot/cmd/pilot-agent", _ISTIO)
# Istio's CA server alone, which the benchmarks compare with ours.
ISTIO_CA = GoProgram("istio_ca", _ISTIO, Path(__file__).parent / "istio_ca")
# Istio's translation of policies into RBAC filters, which it prints.
ISTIO_BUILDER = GoProgram("istio_builder", _ISTIO, Path(__file__).parent / "istio_builder")
OPA = GoProgram("github.com/open-policy-agent/opa", "v1.22.4")
# Eight minutes of a core, the first time.
KUBE_APISERVER = GoProgram("k8s.io/kubernetes/cmd/kube-apiserver", "v1.35.4", Path(__file__).parent / "kube_apiserver")

if __name__ == "__main__":
    for program in (RATELIMIT_CONFIG_CHECK, RATELIMIT, PILOT_AGENT, ISTIO_CA, ISTIO_BUILDER, OPA, KUBE_APISERVER):
        program.build()

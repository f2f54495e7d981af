"""SoftHSM, a token in files (Debian's package softhsm2)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "8-5-6-1-3-7"


class SoftHsm:
    """A token of its own directory. Its library reads the environment when it is initialised."""

    def __init__(self, directory: Path) -> None:
        self.tokens = directory / "tokens"
        self.configuration = directory / "softhsm2.conf"
        self.pin_file = directory / "pin"
        self.tokens.mkdir()
        lines = (f"directories.tokendir = {self.tokens}", "objectstore.backend = file", "log.level = ERROR", "")
        self.configuration.write_text("\n".join(lines))
        self.pin_file.touch(0o600)
        self.pin_file.write_text(PIN + "\n")
        self.init()

    @property
    def environment(self):
        return {**os.environ, "SOFTHSM2_CONF": str(self.configuration)}

    def init(self, label="meshward"):
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "0000", "--pin", PIN]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)

    @property
    def settings(self):
        """The settings of a control plane whose keys are here."""
        return {"keys_store": "pkcs11", "keys_pkcs11_module": MODULE, "keys_pkcs11_pin_file": self.pin_file}


@pytest.fixture
def softhsm(tmp_path, monkeypatch):
    if not MODULE.exists() or shutil.which("softhsm2-util") is None:
        pytest.skip("needs SoftHSM, of the package softhsm2")
    directory = tmp_path / "softhsm"
    directory.mkdir()
    hsm = SoftHsm(directory)
    monkeypatch.setenv("SOFTHSM2_CONF", str(hsm.configuration))
    return hsm

"""The settings of where the private keys of authorities are."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from app.settings.area import Area
from app.settings.values import FilePath

# PKCS #11, CK_TOKEN_INFO: labels have 32 bytes.
MAX_TOKEN_LABEL = 32


class KeySettings(Area):
    """Where the private keys of authorities are made and kept.

    `store`: files in the data dir, this process's memory, or a PKCS#11 token. `passphrase_file`: has the passphrase
    that the files are encrypted under. `pkcs11_module`, `pkcs11_token`, `pkcs11_pin_file`: the library of the token,
    its label, and the file with the PIN of its user.
    """

    store: Literal["disk", "memory", "pkcs11"] = "disk"
    passphrase_file: FilePath | None = None
    pkcs11_module: FilePath | None = None
    pkcs11_token: Annotated[str, Field(min_length=1, max_length=MAX_TOKEN_LABEL)] = "meshward"  # noqa: S105 - a label
    pkcs11_pin_file: FilePath | None = None

    @model_validator(mode="after")
    def _belongs_to_the_store(self) -> "KeySettings":
        if self.passphrase_file is not None and self.store != "disk":
            raise ValueError("passphrase_file is for keys on disk: set store to disk, or unset it")
        if (self.store == "pkcs11") != (self.pkcs11_module is not None and self.pkcs11_pin_file is not None):
            raise ValueError("store = pkcs11 needs pkcs11_module and pkcs11_pin_file, and they need it")
        return self

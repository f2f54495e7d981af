"""Options that several commands have, and what they stand for."""

import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from app.cli.admin import AdminClient
    from app.settings import LoadedSettings

Config = Annotated[
    Path | None, typer.Option("--config", envvar="MESHWARD_CONFIG", help="TOML file; MESHWARD_… variables win over it.")
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server", envvar="MESHWARD_ADMIN_URL", help="URL of the admin API; that of the settings if not given."
    ),
]

# Where a listener on every address of this machine is reached from it.
REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Form(Enum):
    """How a command prints what it found: for people or for programs."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[Form, typer.Option("--output", "-o", help="For people, or for programs.")]
Files = Annotated[list[str], typer.Argument(metavar="FILE…", help="YAML or JSON; - is standard input.")]


def load_settings(config: Path | None) -> "LoadedSettings":
    """Return the settings of this process's environment over the file. Raises InvalidInputError as `load` does."""
    from app.settings import load

    return load(os.environ, config)


def admin_client(config: Path | None, server: str | None) -> "AdminClient":
    """Return a client of the admin API that the options and settings name.

    Raises PreconditionError or NotFoundError if the token's file cannot be used.
    """
    from app.cli.admin import AdminClient
    from app.core.net import Address

    settings = load_settings(config).settings
    token = os.environ.get("MESHWARD_ADMIN_TOKEN")
    bind = settings.admin.bind
    reachable = Address(REACHABLE.get(bind.host, bind.host), bind.port)
    return AdminClient(server or reachable.url, token, settings.data_dir / "admin.token")


def read_file(name: str) -> bytes:
    """Return the content of a file, or of standard input for `-`. Raises InvalidInputError if it cannot be read."""
    from app.core.errors import InvalidInputError
    from app.documents.parser import MAX_TEXT_BYTES

    try:
        if name == "-":
            return sys.stdin.buffer.read(MAX_TEXT_BYTES + 1)
        with Path(name).open("rb") as file:
            return file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise InvalidInputError(f"cannot read {name}: {error.strerror}") from error

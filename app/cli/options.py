"""Options that several commands have, how they find settings and control plane, and how they print results."""

import json
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from app.cli.admin import AdminClient
    from app.settings import LoadedSettings


class Form(Enum):
    """How a command prints its result: for people or for programs."""

    TABLE = "table"
    JSON = "json"


Config = Annotated[
    Path | None, typer.Option("--config", envvar="MESHWARD_CONFIG", help="TOML file; MESHWARD_… variables override it.")
]
Server = Annotated[
    str | None,
    typer.Option("--server", envvar="MESHWARD_ADMIN_URL", help="URL of the admin API, if not the settings'."),
]
Output = Annotated[Form, typer.Option("--output", "-o", help="For people, or for programs.")]

# Where a listener on every address of this machine is reached from it.
REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def load_settings(config: Path | None) -> "LoadedSettings":
    """Return the settings of this process's environment over the file. Raises InvalidInputError as `load` does."""
    from app.settings import load

    return load(os.environ, config)


def admin_client(config: Path | None, server: str | None) -> "AdminClient":
    """Return a client for the options. Raises PreconditionError or NotFoundError if its token cannot be used."""
    from app.cli.admin import AdminClient
    from app.core.net import Address

    settings = load_settings(config).settings
    bind = settings.admin.bind
    url = server or Address(REACHABLE.get(bind.host, bind.host), bind.port).url
    return AdminClient(url, os.environ.get("MESHWARD_ADMIN_TOKEN"), settings.data_dir / "admin.token")


def show_items(items: Sequence[Mapping[str, Any]], columns: Sequence[str], form: Form) -> None:
    """Print `columns` of the items as a table, or all their fields as a JSON array."""
    if form is Form.JSON:
        typer.echo(json.dumps(list(items), indent=2))
        return
    rows = [[column.upper().replace("_", " ") for column in columns]]
    rows += [[_text(item.get(column)) for column in columns] for item in items]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_item(item: Mapping[str, Any], form: Form) -> None:
    """Print each field on a line of its own, or a JSON object."""
    if form is Form.JSON:
        typer.echo(json.dumps(item, indent=2))
        return
    width = max((len(name) for name in item), default=0)
    for name, value in item.items():
        lines = _text(value).splitlines() or [""]
        for title, line in zip([name, *[""] * (len(lines) - 1)], lines, strict=True):
            typer.echo(f"{title.ljust(width)}  {line}".rstrip())


def _text(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value)) or "-"
        case _:
            # Names that others chose may hold control characters; a terminal must not interpret them.
            return "".join(mark if mark.isprintable() or mark == "\n" else "�" for mark in str(value))

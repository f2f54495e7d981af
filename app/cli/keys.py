"""Commands for the private keys of authorities. They need no running server."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Config, load_settings

keys = typer.Typer(name="keys", no_args_is_help=True, help="The private keys of authorities.")


@keys.callback()
def _group() -> None:
    """Keep the group one, though it has a single command."""


@keys.command("passphrase")
def keys_passphrase(
    *,
    old: Annotated[Path | None, typer.Option("--old-file", help="File with the current passphrase.")] = None,
    new: Annotated[Path | None, typer.Option("--new-file", help="File with the new passphrase.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Store the keys unencrypted.")] = False,
    config: Config = None,
) -> None:
    """Encrypt the keys in the data dir, change their passphrase, or remove it. Stop the control plane first."""
    from app.main.keys import reencrypt_keys

    if (new is None) != plain:
        raise typer.BadParameter("give --new-file, or --plain to keep the keys without a passphrase")
    changed, number = reencrypt_keys(load_settings(config).settings, old, new)
    typer.echo(f"{changed} of {number} keys were rewritten; set keys.passphrase_file accordingly")

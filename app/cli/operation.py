"""Commands for operators: settings, database, admin token. They need no running server."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import Config, Form, Output, load_settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

config = typer.Typer(name="config", no_args_is_help=True, help="The current settings.")
db = typer.Typer(name="db", no_args_is_help=True, help="The database.")
admin = typer.Typer(name="admin", no_args_is_help=True, help="The admin API.")


@config.command("check")
def config_check(*, file: Config = None) -> None:
    """Check the settings; exit 0 if the control plane can start with them."""
    load_settings(file)
    typer.echo("the settings are valid")


@config.command("show")
def config_show(*, output: Output = Form.TABLE, file: Config = None) -> None:
    """Print the current settings as TOML, each with its source; passwords are left out."""
    from app.settings.show import as_toml, as_values

    loaded = load_settings(file)
    typer.echo(json.dumps(as_values(loaded), indent=2) if output is Form.JSON else as_toml(loaded), nl=False)


@db.command("upgrade")
def db_upgrade(*, config: Config = None) -> None:
    """Migrate the database to the schema of this version, as `meshward serve` does when it starts."""
    from app.db.migrate import newest, upgrade

    before = _with_database(config, upgrade)
    typer.echo(f"the database is at step {newest()}" + ("" if before == newest() else f", was {before or 'empty'}"))


@db.command("current")
def db_current(*, config: Config = None) -> None:
    """Print the migration step of the database, and that of this version."""
    from app.db.migrate import current, newest

    step = _with_database(config, current)
    typer.echo(f"the database is {f'at step {step}' if step else 'empty'}; this version expects {newest()}")


@db.command("rotate-secret")
def db_rotate_secret(
    *,
    trust_rows: Annotated[
        bool, typer.Option("--trust-rows", help="Accept the roots, entries, bans and API keys in the database.")
    ] = False,
    config: Config = None,
) -> None:
    """Replace the secret behind the MACs of rows. Stop all replicas first, and give them the new file."""
    from app.core.private_files import ensure_data_directory
    from app.main.row_secret import rotate_secret

    settings = load_settings(config).settings
    ensure_data_directory(settings.data_dir)
    renewed = asyncio.run(rotate_secret(settings, trust_rows=trust_rows))
    typer.echo(f"{renewed} rows have MACs of the new secret; copy it to the other replicas, then start them")


@admin.command("token")
def admin_token(
    *,
    show: Annotated[bool, typer.Option("--show", help="Print the token itself.")] = False,
    rotate: Annotated[bool, typer.Option("--rotate", help="Replace the token.")] = False,
    config: Config = None,
) -> None:
    """Print the path of the admin token."""
    from app.core.private_files import ensure_data_directory
    from app.transport.rest.authentication import ensure_token, read_token, rotate_token

    data_dir = load_settings(config).settings.data_dir
    path = data_dir / "admin.token"
    ensure_data_directory(data_dir)
    if rotate:
        rotate_token(path)
    else:
        ensure_token(path)
    typer.echo(read_token(path) if show else str(path))


def _with_database(config: Path | None, use: "Callable[[AsyncEngine], Awaitable[str]]") -> str:
    from app.core.private_files import ensure_data_directory
    from app.db.engine import create_engine, dispose

    settings = load_settings(config).settings
    ensure_data_directory(settings.data_dir)

    async def run() -> str:
        engine = create_engine(settings.database_url)
        try:
            return await use(engine)
        finally:
            await dispose(engine)

    return asyncio.run(run())

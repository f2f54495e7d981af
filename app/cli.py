"""The command line: parses, calls, prints."""

from importlib.metadata import version
from typing import Annotated

import typer

cli = typer.Typer(name="meshward", no_args_is_help=True, pretty_exceptions_enable=False)


@cli.callback()
def root() -> None:
    """Identity, authorization and quota for a service mesh of Envoy sidecars."""


@cli.command("version")
def show_version() -> None:
    """Print the version."""
    typer.echo(version("meshward"))


@cli.command()
def demo(
    *,
    check: Annotated[bool, typer.Option("--check", help="End when all has been seen; exit 0 only if it was.")] = False,
) -> None:
    """Start a real mesh on this machine: control plane, two workloads and their Envoy sidecars."""
    from app.demo.run import run  # noqa: PLC0415 - other commands start faster without it

    raise typer.Exit(run(check=check))


def main() -> None:
    """Run the command line."""
    cli()

"""The command line: parses, calls, prints."""

from importlib.metadata import version

import typer

cli = typer.Typer(name="meshward", no_args_is_help=True, pretty_exceptions_enable=False)


@cli.callback()
def root() -> None:
    """Identity, authorization and quota for a service mesh of Envoy sidecars."""


@cli.command("version")
def show_version() -> None:
    """Print the version."""
    typer.echo(version("meshward"))


def main() -> None:
    """Run the command line."""
    cli()

"""Commands on the transparency log of the certificate authority."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Config, Server, admin_client, load_settings

log = typer.Typer(name="log", no_args_is_help=True, help="The transparency log of the certificate authority.")


@log.command("head")
def log_head(*, config: Config = None, server: Server = None) -> None:
    """Print the newest signed tree head. Keep it: a log that does not continue it was changed."""
    typer.echo(json.dumps(admin_client(config, server).get("/v1/log/head")))


@log.command("export")
def log_export(*, config: Config = None, server: Server = None) -> None:
    """Print the whole log, a JSON object on each line: the signed tree head, then each entry that it covers."""
    from app.cli.log_verification import exported

    for document in exported(admin_client(config, server)):
        typer.echo(json.dumps(document))


@log.command("prove")
def log_prove(
    certificate: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="A workload's certificate, PEM.")],
    *,
    config: Config = None,
    server: Server = None,
) -> None:
    """Print the proof that the log has a certificate."""
    from app.ca.rules.log import serial_of
    from app.cli.log_verification import read_certificate

    serial = serial_of(read_certificate(certificate))
    typer.echo(json.dumps(admin_client(config, server).get("/v1/log/inclusion", subject=serial)))


@log.command("compare")
def log_compare(
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="A tree head that you have kept.")],
    *,
    config: Config = None,
    server: Server = None,
) -> None:
    """Print the proof that the current log begins with that of an earlier tree head."""
    from app.cli.log_verification import read_head

    size = read_head(head).size
    typer.echo(json.dumps(admin_client(config, server).get("/v1/log/consistency", first=size)))


@log.command("verify")
def log_verify(
    *,
    bundle: Annotated[Path | None, typer.Option(help="Trust bundle, if not bundle.pem in the data dir.")] = None,
    proof: Annotated[Path | None, typer.Option(help="A proof, as prove or compare printed it.")] = None,
    log: Annotated[Path | None, typer.Option(help="A whole log, as export printed it.")] = None,
    head: Annotated[Path | None, typer.Option(help="A tree head that you have kept; the log must continue it.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="Workload certificate, PEM; the log must have it.")] = None,
    config: Config = None,
    server: Server = None,
) -> None:
    """Verify a proof or a whole log, with nothing but the trust bundle; exit 0 if it holds.

    Without --proof and --log, verify the log of the running control plane, and that its records are those of the log.
    """
    from app.cli.log_verification import Verifier

    verifier = Verifier(bundle or load_settings(config).settings.data_dir / "bundle.pem", head, certificate)
    if proof is not None:
        typer.echo(verifier.verify_proof(proof))
    elif log is not None:
        typer.echo(verifier.verify_export(log))
    else:
        for line in verifier.verify_server(admin_client(config, server)):
            typer.echo(line)

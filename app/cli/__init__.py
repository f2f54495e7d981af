"""The command line: parses, calls, prints. Each command imports what it uses, so that the others start fast."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.cli import api_key, ban, ca, check, failures, identity, keys, operation, quota
from app.cli.log import log
from app.cli.options import Config, load_settings
from app.envoy.sidecar import Protocol

cli = typer.Typer(name="meshward", no_args_is_help=True, pretty_exceptions_enable=False)
envoy = typer.Typer(name="envoy", no_args_is_help=True, help="Configuration for Envoy sidecars.")
for group in (
    envoy,
    *(operation.config, operation.db, operation.admin, keys.keys),
    *(identity.token, identity.entry, ca.ca, ban.identity),
    *(check.policy, api_key.api_key, quota.quota),
    log,
):
    cli.add_typer(group)


@cli.callback()
def root(
    *, debug: Annotated[bool, typer.Option("--debug", envvar="MESHWARD_DEBUG", help="Show tracebacks.")] = False
) -> None:
    """Identity, authorization and quota for a service mesh of Envoy sidecars."""
    failures.debug.set(debug)


@cli.command("version")
def show_version() -> None:
    """Print the version."""
    typer.echo(version("meshward"))


@cli.command()
def serve(*, config: Config = None) -> None:
    """Run the control plane until SIGTERM or Ctrl-C."""
    settings = load_settings(config).settings  # a wrong one is reported before the rest is imported
    from app.main.serve import run

    run(settings)


@cli.command()
def demo(
    *, check: Annotated[bool, typer.Option("--check", help="Exit after the last step; 0 if all succeeded.")] = False
) -> None:
    """Start a real mesh on this machine: control plane, two workloads and their Envoy sidecars."""
    from app.demo.run import run

    raise typer.Exit(run(check=check))


@cli.command()
def agent(  # noqa: PLR0913 - each option is a parameter
    *,
    server: Annotated[str, typer.Option(help="HOST:PORT of the control plane's mesh TLS port.")],
    trust_bundle: Annotated[Path, typer.Option(help="File with its trust bundle, PEM or SPIFFE JSON.")],
    server_name: Annotated[str | None, typer.Option(help="DNS name in its certificate, if not HOST.")] = None,
    trust_domain: Annotated[str | None, typer.Option(help="Its trust domain, if not in the bundle's roots.")] = None,
    join_token_file: Annotated[Path | None, typer.Option(help="File with the join token.")] = None,
    join_token: Annotated[
        str | None, typer.Option(help="Join token, visible to other users; prefer MESHWARD_JOIN_TOKEN.")
    ] = None,
    data_dir: Annotated[Path, typer.Option(help="Directory of the identity, mode 0700.")] = Path(".meshward-agent"),
    socket: Annotated[Path | None, typer.Option(help="SDS socket, if not agent.sock in the data dir.")] = None,
    allow_uid: Annotated[
        list[int] | None, typer.Option(help="User id with access, instead of this user and root; repeatable.")
    ] = None,
    metrics_bind: Annotated[str | None, typer.Option(help="HOST:PORT, or a port of 127.0.0.1, for /metrics.")] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(envvar="MESHWARD_LOG_LEVEL", help="Level of the log."),
    ] = "info",
    log_format: Annotated[
        Literal["json", "console", "auto"], typer.Option(envvar="MESHWARD_LOG_FORMAT", help="Format of the log.")
    ] = "auto",
) -> None:
    """Get a certificate for a workload, renew it, and serve it to Envoy over SDS."""
    from app.agent.options import agent_options
    from app.agent.run import run
    from app.telemetry.logs import configure

    configure(log_level, log_format)
    run(
        agent_options(
            server=server,
            server_name=server_name,
            trust_bundle=trust_bundle,
            trust_domain=trust_domain,
            join_token=join_token,
            join_token_file=join_token_file,
            data_dir=data_dir,
            socket=socket,
            allow_uid=allow_uid,
            metrics_bind=metrics_bind,
        )
    )


@envoy.command("bootstrap")
def envoy_bootstrap(  # noqa: PLR0913 - each option is a parameter
    *,
    spiffe_id: Annotated[str, typer.Option(help="SPIFFE ID of the workload.")],
    control_plane: Annotated[
        str, typer.Option(help="HOST:PORT of the control plane's mesh TLS port, or unix:/path of its Unix socket.")
    ],
    sds_socket: Annotated[str, typer.Option(help="The agent's Unix socket, an absolute path.")],
    control_plane_name: Annotated[str, typer.Option(help="DNS name to send it (SNI), if not HOST.")] = "",
    inbound: Annotated[list[str], typer.Option(help="LISTEN=WORKLOAD; may be repeated.")] = [],  # noqa: B006 - typer
    outbound: Annotated[list[str], typer.Option(help="LISTEN=PEER=SPIFFE-ID; may be repeated.")] = [],  # noqa: B006
    label: Annotated[list[str], typer.Option(help="KEY=VALUE of the workload; may be repeated.")] = [],  # noqa: B006
    quota_domain: Annotated[str, typer.Option(help="Domain of the limits for inbound requests.")] = "mesh",
    check: Annotated[Protocol, typer.Option(help="Protocol of authorization checks.")] = Protocol.GRPC,
    admin: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of Envoy's admin interface, which authenticates nobody; off by default."),
    ] = None,
) -> None:
    """Print the bootstrap of a sidecar, for envoy -c. Addresses are HOST:PORT."""
    from app.envoy.bootstrap import bootstrap_json
    from app.envoy.sidecar import sidecar_of

    sidecar = sidecar_of(
        spiffe_id=spiffe_id,
        control_plane=control_plane,
        control_plane_name=control_plane_name,
        sds_socket=sds_socket,
        inbound=inbound,
        outbound=outbound,
        label=label,
        quota_domain=quota_domain,
        check=check,
        admin=admin,
    )
    typer.echo(bootstrap_json(sidecar))


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(failures.guarded(lambda: cli(prog_name="meshward")))

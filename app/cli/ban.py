"""Commands that ban identities and revoke certificates."""

from typing import Annotated

import typer

from app.cli.options import Config, Form, Output, Server, admin_client, show_item, show_items
from app.core.durations import parse_duration
from app.core.errors import located

COLUMNS = ("subject", "reason", "created_at", "expires_at")

identity = typer.Typer(name="identity", no_args_is_help=True, help="Bans of identities, and revoked certificates.")

Subject = Annotated[
    str, typer.Argument(metavar="SPIFFE-ID", help="spiffe://…, or every identity below a path: 'spiffe://…/*'.")
]
Serial = Annotated[str, typer.Argument(metavar="SERIAL", help="Serial number of the certificate, hexadecimal.")]
Reason = Annotated[str, typer.Option(help="Why; it is in the log of each denial.")]


@identity.command("ban")
def identity_ban(
    subject: Subject,
    *,
    reason: Reason,
    lasts: Annotated[str | None, typer.Option("--for", help="How long, such as 2h; without it until unbanned.")] = None,
    output: Output = Form.TABLE,
    config: Config = None,
    server: Server = None,
) -> None:
    """Refuse an identity everywhere: no certificate, no call, no request to another workload."""
    body: dict[str, object] = {"reason": reason}
    if lasts is not None:
        with located("--for"):
            body["ttl_seconds"] = int(parse_duration(lasts).total_seconds())
    show_item(admin_client(config, server).put(_ban_path(subject), body), output)


@identity.command("unban")
def identity_unban(subject: Subject, *, config: Config = None, server: Server = None) -> None:
    """Lift a ban; SUBJECT is spelled as it was banned."""
    admin_client(config, server).delete(_ban_path(subject))
    typer.echo(f"unbanned {subject}")


@identity.command("revoke")
def identity_revoke(
    serial: Serial, *, reason: Reason, output: Output = Form.TABLE, config: Config = None, server: Server = None
) -> None:
    """Refuse one certificate until it ends; its identity can get another."""
    show_item(admin_client(config, server).put(_revocation_path(serial), {"reason": reason}), output)


@identity.command("unrevoke")
def identity_unrevoke(serial: Serial, *, config: Config = None, server: Server = None) -> None:
    """Accept a revoked certificate again."""
    admin_client(config, server).delete(_revocation_path(serial))
    typer.echo(f"unrevoked {serial}")


@identity.command("list")
def identity_list(*, output: Output = Form.TABLE, config: Config = None, server: Server = None) -> None:
    """List the bans and the revoked certificates."""
    show_items(list(admin_client(config, server).items("/v1/bans")), COLUMNS, output)


def _ban_path(subject: str) -> str:
    from app.cli.admin import path_segment

    return f"/v1/identities/{path_segment(subject)}/ban"


def _revocation_path(serial: str) -> str:
    from app.cli.admin import path_segment

    return f"/v1/svids/{path_segment(serial)}/revocation"

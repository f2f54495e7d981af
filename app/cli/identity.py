"""Commands on identities, through the admin API of the running control plane."""

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import Config, Form, Output, Server, admin_client, show_item, show_items
from app.core.durations import parse_duration
from app.core.errors import NotFoundError, located

if TYPE_CHECKING:
    from app.cli.admin import AdminClient

SPIFFE_PREFIX = "spiffe://"
ENTRY_COLUMNS = ("id", "spiffe_id", "x509_svid_ttl_seconds", "dns_names", "hint")

token = typer.Typer(name="token", no_args_is_help=True, help="Join tokens: single-use proof of an agent's identity.")
entry = typer.Typer(name="entry", no_args_is_help=True, help="Lifetime and DNS names of an identity's certificates.")

Subject = Annotated[str, typer.Argument(metavar="ENTRY", help="Id or SPIFFE ID of the entry.")]


@token.command("create")
def token_create(
    *,
    spiffe_id: Annotated[str, typer.Option(help="SPIFFE ID that the token proves: spiffe://…")],
    ttl: Annotated[str, typer.Option(help="Lifetime of the token.")] = "10m",
    output: Output = Form.TABLE,
    config: Config = None,
    server: Server = None,
) -> None:
    """Create a join token, and print it alone on its line. It can be used once."""
    created = admin_client(config, server).post(
        "/v1/join-tokens", {"spiffe_id": spiffe_id, "ttl_seconds": _seconds("--ttl", ttl)}
    )
    if output is Form.JSON:
        show_item(created, output)
        return
    typer.echo(f"for {created['spiffe_id']}, until {created['expires_at']}", err=True)
    typer.echo(created["token"])


@entry.command("create")
def entry_create(
    *,
    spiffe_id: Annotated[str, typer.Option(help="SPIFFE ID of the workload: spiffe://…")],
    ttl: Annotated[str | None, typer.Option(help="Lifetime of its certificates, such as 1h.")] = None,
    dns_name: Annotated[list[str], typer.Option(help="DNS name in its certificates; can be repeated.")] = [],  # noqa: B006 - typer
    hint: Annotated[str, typer.Option(help="Label for a workload that has several identities.")] = "",
    output: Output = Form.TABLE,
    config: Config = None,
    server: Server = None,
) -> None:
    """Create an entry."""
    body = {
        "spiffe_id": spiffe_id,
        "x509_svid_ttl_seconds": None if ttl is None else _seconds("--ttl", ttl),
        "dns_names": dns_name,
        "hint": hint,
    }
    show_item(admin_client(config, server).post("/v1/entries", body), output)


@entry.command("list")
def entry_list(*, output: Output = Form.TABLE, config: Config = None, server: Server = None) -> None:
    """List the entries, in the order of their SPIFFE IDs."""
    show_items(list(admin_client(config, server).items("/v1/entries")), ENTRY_COLUMNS, output)


@entry.command("show")
def entry_show(subject: Subject, *, output: Output = Form.TABLE, config: Config = None, server: Server = None) -> None:
    """Show an entry."""
    client = admin_client(config, server)
    show_item(client.get(_entry_path(client, subject)), output)


@entry.command("delete")
def entry_delete(subject: Subject, *, config: Config = None, server: Server = None) -> None:
    """Delete an entry; certificates already issued stay valid until they expire."""
    client = admin_client(config, server)
    client.delete(_entry_path(client, subject))
    typer.echo(f"deleted {subject}")


def _entry_path(client: "AdminClient", subject: str) -> str:
    from app.cli.admin import path_segment

    if not subject.startswith(SPIFFE_PREFIX):
        return f"/v1/entries/{path_segment(subject)}"
    found = list(client.items("/v1/entries", spiffe_id=subject))
    if not found:
        raise NotFoundError(f"there is no entry for {subject}")
    return f"/v1/entries/{path_segment(found[0]['id'])}"


def _seconds(option: str, text: str) -> int:
    with located(option):
        return int(parse_duration(text).total_seconds())

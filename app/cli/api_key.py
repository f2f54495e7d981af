"""Commands on API keys, through the admin API of the running control plane."""

from typing import Annotated

import typer

from app.cli.options import Config, Form, Output, Server, admin_client, show_item, show_items
from app.core.durations import parse_duration
from app.core.errors import InvalidInputError, Violation, located

PATH = "/v1/api-keys"
COLUMNS = ("id", "subject", "namespace", "labels", "created_at", "expires_at", "revoked_at")

api_key = typer.Typer(name="api-key", no_args_is_help=True, help="API keys of clients that have no tokens.")

KeyId = Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as list shows it.")]


@api_key.command("create")
def api_key_create(
    *,
    subject: Annotated[str, typer.Option(help="Identity that the key proves: sub of requests.")],
    namespace: Annotated[str, typer.Option(help="Only workloads of this namespace accept it.")] = "",
    label: Annotated[list[str], typer.Option(help="KEY=VALUE, by which documents select keys; repeatable.")] = [],  # noqa: B006 - typer
    ttl: Annotated[str | None, typer.Option(help="How long, such as 90d; without it until revoked.")] = None,
    output: Output = Form.TABLE,
    config: Config = None,
    server: Server = None,
) -> None:
    """Make an API key, and print it alone on its line. It is shown this once."""
    body: dict[str, object] = {"subject": subject, "namespace": namespace, "labels": _labels(label)}
    if ttl is not None:
        with located("--ttl"):
            body["ttl_seconds"] = int(parse_duration(ttl).total_seconds())
    created = admin_client(config, server).post(PATH, body)
    if output is Form.JSON:
        show_item(created, output)
        return
    until = f"until {created['expires_at']}" if created["expires_at"] else "until it is revoked"
    typer.echo(f"id {created['id']}, for {created['subject']}, {until}", err=True)
    typer.echo(created["key"])


@api_key.command("list")
def api_key_list(*, output: Output = Form.TABLE, config: Config = None, server: Server = None) -> None:
    """List the API keys, with those that ended in the last week."""
    items = list(admin_client(config, server).items(PATH))
    if output is Form.TABLE:
        items = [{**item, "labels": [f"{key}={value}" for key, value in item["labels"].items()]} for item in items]
    show_items(items, COLUMNS, output)


@api_key.command("revoke")
def api_key_revoke(key_id: KeyId, *, config: Config = None, server: Server = None) -> None:
    """Refuse a key from now on, at every replica within a second."""
    from app.cli.admin import path_segment

    admin_client(config, server).delete(f"{PATH}/{path_segment(key_id)}")
    typer.echo(f"revoked {key_id}")


def _labels(pairs: list[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InvalidInputError(f"--label: {pair!r} is not KEY=VALUE", Violation("--label", "must be KEY=VALUE"))
        labels[key] = value
    return labels

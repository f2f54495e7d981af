"""Commands on the certificate authority, through the admin API of the running control plane."""

import time
from typing import Annotated, Any

import typer

from app.cli.options import Config, Form, Output, Server, admin_client, show_item, show_items
from app.core.errors import PreconditionError

COLUMNS = ("kind", "id", "origin", "stage", "not_before", "not_after")

WAITING_COLUMNS = ("waits_for", "spiffe_id", "address", "node", "problem")
ACTIVE, ACTIVATING = "active", "activating"
LOOK_AGAIN_SECONDS = 0.5

ca = typer.Typer(name="ca", no_args_is_help=True, help="The certificate authority.")

Root = Annotated[str, typer.Argument(metavar="ID", help="Id of the root, which `meshward ca show` lists.")]
Authority = Annotated[str, typer.Argument(metavar="ID", help="Id of the root or of the signing authority.")]


@ca.command("show")
def ca_show(*, output: Output = Form.TABLE, config: Config = None, server: Server = None) -> None:
    """Show the state of the certificate authority, its roots and its signing certificates."""
    client = admin_client(config, server)
    state, authorities = client.get("/v1/ca"), client.get("/v1/ca/authorities")
    if output is Form.JSON:
        show_item({**state, **authorities}, output)
        return
    for part in ("plug_in", "upstream"):
        state |= {f"{part}_{name}": value for name, value in (state.pop(part) or {}).items()}
    show_item(state, output)
    rows = [{"kind": kind, **item} for kind in ("root", "signer") for item in authorities[f"{kind}s"]]
    typer.echo()
    show_items(rows, COLUMNS, output)


@ca.command("requests")
def ca_requests(*, output: Output = Form.TABLE, config: Config = None, server: Server = None) -> None:
    """List the requests for signing certificates that wait for an operator's approval."""
    show_items(admin_client(config, server).get("/v1/ca/signing-requests"), ("id", "created_at"), output)


@ca.command("approve")
def ca_approve(
    request: Annotated[str, typer.Argument(help="Id of the request, as the replica that made it reports it.")],
    *,
    output: Output = Form.TABLE,
    config: Config = None,
    server: Server = None,
) -> None:
    """Have the root sign a replica's request. The id is the fingerprint of its public key."""
    from app.cli.admin import path_segment

    client = admin_client(config, server)
    show_item(client.post(f"/v1/ca/signing-requests/{path_segment(request)}/approve", {}), output)


@ca.command("prepare")
def ca_prepare(*, output: Output = Form.TABLE, config: Config = None, server: Server = None) -> None:
    """Create a root with a new key: it is trusted from now on, and signs once it is activated."""
    _show(admin_client(config, server).post("/v1/ca/authorities", {}), output)


@ca.command("activate")
def ca_activate(
    root: Root,
    *,
    force: Annotated[bool, typer.Option("--force", help="Activate it without waiting for anybody.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return once it is active; exit 1 if it is not.")] = False,
    output: Output = Form.TABLE,
    config: Config = None,
    server: Server = None,
) -> None:
    """Have a prepared root sign once everybody has accepted the trust bundle with it, or an old one again, at once."""
    client = admin_client(config, server)
    changed = client.post(_path(root, "activate"), {"force": force})
    while wait and changed["stage"] == ACTIVATING:
        time.sleep(LOOK_AGAIN_SECONDS)
        changed = next(each for each in client.get("/v1/ca/authorities")["roots"] if each["id"] == root)
    _show(changed, output)
    if changed["stage"] == ACTIVATING:
        typer.echo(f"it waits for those that `meshward ca acknowledgements {root}` lists", err=True)
    elif changed["stage"] != ACTIVE:
        raise PreconditionError(f"the root {root} was held back: not everybody accepted the trust bundle in time")


@ca.command("acknowledgements")
def ca_acknowledgements(
    root: Root, *, output: Output = Form.TABLE, config: Config = None, server: Server = None
) -> None:
    """Show who has not yet accepted the trust bundle with the root that is to be active next."""
    found = admin_client(config, server).get(_path(root, "acknowledgements"))
    if output is Form.JSON:
        show_item(found, output)
        return
    show_item({name: value for name, value in found.items() if not isinstance(value, list)}, output)
    rows = [{"waits_for": "stream", **each} for each in found["behind"]]
    rows += [{"waits_for": "identity", "spiffe_id": each} for each in found["identities"]]
    rows += [{"waits_for": "replica", "node": each} for each in found["replicas"]]
    if rows:
        typer.echo()
        show_items([{name: row.get(name, "") for name in WAITING_COLUMNS} for row in rows], WAITING_COLUMNS, output)


@ca.command("taint")
def ca_taint(
    authority: Authority, *, output: Output = Form.TABLE, config: Config = None, server: Server = None
) -> None:
    """Replace everything that an old root, or a signing authority, has signed."""
    _show(admin_client(config, server).post(_path(authority, "taint"), {}), output)


@ca.command("revoke")
def ca_revoke(
    root: Root,
    *,
    force: Annotated[bool, typer.Option("--force", help="Even if identities have no other certificate.")] = False,
    output: Output = Form.TABLE,
    config: Config = None,
    server: Server = None,
) -> None:
    """Take a tainted root, or one that was prepared and not activated, out of the trust bundle, for good."""
    _show(admin_client(config, server).post(_path(root, "revoke"), {"force": force}), output)


def _show(authority: dict[str, Any], output: Form) -> None:
    """Print an authority, its certificate in JSON alone."""
    shown = authority if output is Form.JSON else {name: authority[name] for name in authority if name != "certificate"}
    show_item(shown, output)


def _path(authority: str, change: str) -> str:
    from app.cli.admin import path_segment

    return f"/v1/ca/authorities/{path_segment(authority)}/{change}"

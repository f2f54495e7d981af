"""Commands on rate limits: checking and explaining configurations, counters, settings of envoyproxy/ratelimit."""

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from app.cli.check import Files, check, read_file
from app.cli.options import Config, Form, Output, Server, admin_client, show_items
from app.core.errors import InvalidInputError

COUNTERS_PATH = "/v1/quota/counters"
COLUMNS = ("rule", "counted_by", "used", "remaining", "resets_in_seconds", "id")

quota = typer.Typer(name="quota", no_args_is_help=True, help="Rate limits.")

Entries = Annotated[
    list[str],
    typer.Option("--entry", "-e", metavar="KEY=VALUE", help="Entry of the request's descriptor, in order; repeat it."),
]


CounterDomain = Annotated[str, typer.Option(help="Domain of the counters.")]


@quota.command("check")
def check_files(
    files: Files,
    *,
    limitador: Annotated[bool, typer.Option("--limitador", help="The files are limits in limitador's schema.")] = False,
) -> None:
    """Check rate limit configurations; exit 0 if the control plane would accept all of them."""
    from app.quota.rules.limitador import LIMIT_KIND
    from app.quota.rules.parse import QUOTA_KIND

    check(files, LIMIT_KIND if limitador else QUOTA_KIND)


@quota.command("explain")
def explain(
    files: Annotated[list[str], typer.Argument(metavar="[FILE…]", help="Configurations; - is standard input.")] = [],  # noqa: B006 - typer
    *,
    domain: Annotated[str, typer.Option(help="Domain that the request asks about.")],
    entry: Entries,
    output: Output = Form.TABLE,
    config: Config = None,
    server: Server = None,
) -> None:
    """Show which limit applies to a request's descriptor, and why not the others. Nothing is counted.

    By the files if there are any, else by the active configurations of the running control plane.
    """
    entries = [_entry(each) for each in entry]
    if files:
        found = [_explain_files(files, domain, entries)]
    else:
        fields = [{"key": key, "value": value} for key, value in entries]
        body = {"domain": domain, "descriptors": [{"entries": fields}]}
        found = admin_client(config, server).post("/v1/quota/explain", body)["items"]
    if output is Form.JSON:
        import json

        typer.echo(json.dumps(found, indent=2))
        return
    for each in found:
        for line in _lines(each):
            typer.echo(_printable(line))


@quota.command("counters")
def counters(
    *,
    domain: CounterDomain,
    rule: Annotated[str | None, typer.Option(help="Only counters of this limit, named as in /rlconfig.")] = None,
    output: Output = Form.TABLE,
    config: Config = None,
    server: Server = None,
) -> None:
    """List the counters of a domain that have counted something."""
    found = {item["id"]: item for item in admin_client(config, server).items(COUNTERS_PATH, domain=domain, rule=rule)}
    if output is Form.TABLE:
        for item in found.values():
            entries = item["entries"]
            item["counted_by"] = entries and ", ".join(f"{each['key']}={each['value']}" for each in entries)
    show_items(list(found.values()), COLUMNS, output)


@quota.command("reset")
def reset(
    counter: Annotated[str | None, typer.Argument(metavar="[ID]", help="Counter, as listed.")] = None,
    *,
    domain: CounterDomain,
    rule: Annotated[str | None, typer.Option(help="Limit: every counter of it.")] = None,
    entry: Entries = [],  # noqa: B006 - typer
    config: Config = None,
    server: Server = None,
) -> None:
    """Reset counters to zero: one by its ID, all of a limit, or those of a request's descriptor.

    The audit log has who reset which.
    """
    fields = [{"key": key, "value": value} for key, value in map(_entry, entry)]
    body = {"domain": domain, "id": counter, "rule": rule, "entries": fields or None}
    given = {name: value for name, value in body.items() if value is not None}
    if len(given) != 2:  # noqa: PLR2004 - the domain, and one of the others
        raise InvalidInputError("give a counter's ID, --rule, or --entry")
    number = admin_client(config, server).post(f"{COUNTERS_PATH}/reset", given)["counters"]
    typer.echo(f"{number} {'counter' if number == 1 else 'counters'} of {domain} reset")


def _entry(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidInputError(f"{text!r} is not KEY=VALUE")
    return key, value


def _explain_files(files: list[str], domain: str, entries: list[tuple[str, str]]) -> dict[str, Any]:
    from app.documents.parser import parse_documents
    from app.quota.model import Descriptor
    from app.quota.rest import explained
    from app.quota.rules.explain import explain
    from app.quota.rules.parse import QUOTA_KIND
    from app.quota.rules.tree import compile_config

    for name in files:
        text = read_file(name)
        for config in QUOTA_KIND.parse(parse_documents(text), text=text):
            if config.domain == domain:
                explanations = explain(compile_config(config), [Descriptor(tuple(entries))])
                return explained(explanations[0]).model_dump()
    raise InvalidInputError(f"the domain {domain!r} is not in {', '.join(files)}: every request for it passes")


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    for step in found["steps"]:
        yield f"{step['entry']}: {step['matched'] or 'nothing'} ({step['how']})"
        for miss in step["misses"]:
            yield f"  not {miss['descriptor']}: {miss['reason']}"
        if step["others"]:
            yield f"  nor {step['others']} others with this key"
    yield f"limit: {found['limit'] or 'none'}"
    yield f"why: {found['reason']}"
    if found["rule"]:
        yield f"in metrics: {found['rule']}"
        yield f"counted by: {', '.join(found['counter'])}"
    if found["remaining"] is not None:
        yield f"remaining: {found['remaining']}, until it resets in {found['reset_seconds']} seconds"


def _printable(line: str) -> str:
    """Return `line` without control characters, which a terminal must not interpret."""
    return "".join(mark if mark.isprintable() else "�" for mark in line)


@quota.command("import-env")
def import_env() -> None:
    """Print the settings that stand for envoyproxy/ratelimit's variables in this environment, as TOML.

    Run it as the service is run: `env $(cat ratelimit.env) meshward quota import-env`. Secrets are not printed.
    """
    from app.settings.ratelimit import imported

    result = imported(os.environ)
    typer.echo(result.toml, nl=False)
    for line in result.notes:
        typer.echo(line, err=True)

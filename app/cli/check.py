"""Checking documents before they are sent anywhere, with the parsers that the control plane uses."""

from collections.abc import Callable

import typer

from app.cli.options import Files, read_file
from app.core.errors import InvalidInputError, Violation
from app.documents.parser import parse_documents

policy = typer.Typer(no_args_is_help=True, help="Authorization policies.")
quota = typer.Typer(no_args_is_help=True, help="Rate limits.")


@policy.callback()
@quota.callback()
def group() -> None:
    """Keep a group of one command a group."""


@policy.command("check")
def policy_check(files: Files) -> None:
    """Check AuthorizationPolicy documents; exit 0 if the control plane would take them all."""
    from app.authz.rules.parse import parse_policies

    _check(files, lambda documents: [found.key for found in parse_policies(documents)])


@quota.command("check")
def quota_check(files: Files) -> None:
    """Check rate limit configurations; exit 0 if the control plane would take them all."""
    from app.quota.rules.parse import parse_config

    _check(files, lambda documents: [parse_config(document).domain for document in documents])


def _check(files: list[str], parse: Callable[[tuple[dict[str, object], ...]], list[str]]) -> None:
    """Parse every file and print what is in it. Raises InvalidInputError with what is wrong in any of them."""
    violations: list[Violation] = []
    for name, text in [(name, read_file(name)) for name in files]:
        try:
            for found in parse(_documents(text)):
                typer.echo(f"{name}: {found} is valid")
        except InvalidInputError as error:
            found_here = error.violations or (Violation("", error.message),)
            violations += [Violation(f"{name}: {item.path}".rstrip(": "), item.problem) for item in found_here]
    if len(violations) == 1:
        raise InvalidInputError(str(violations[0]), *violations)
    if violations:
        raise InvalidInputError(f"{len(violations)} problems", *violations)


def _documents(text: bytes) -> tuple[dict[str, object], ...]:
    documents = parse_documents(text)
    if not documents:
        raise InvalidInputError("there is no document in it")
    return documents

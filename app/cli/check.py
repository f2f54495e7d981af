"""Checking documents before they are sent anywhere, with the parsers that the control plane uses."""

from typing import Any

import typer

from app.cli.options import Files, read_file
from app.core.errors import InvalidInputError, Violation
from app.documents.kind import DocumentKind
from app.documents.parser import parse_documents
from app.documents.reader import violations_in

policy = typer.Typer(no_args_is_help=True, help="Authorization policies.")
quota = typer.Typer(no_args_is_help=True, help="Rate limits.")


@policy.callback()
@quota.callback()
def group() -> None:
    """Keep a group of one command a group."""


@policy.command("check")
def policy_check(files: Files) -> None:
    """Check AuthorizationPolicy documents; exit 0 if the control plane would take them all."""
    from app.authz.rules.parse import POLICY_KIND

    _check(files, POLICY_KIND)


@quota.command("check")
def quota_check(files: Files) -> None:
    """Check rate limit configurations; exit 0 if the control plane would take them all."""
    from app.quota.rules.parse import QUOTA_KIND

    _check(files, QUOTA_KIND)


def _check(files: list[str], kind: DocumentKind[Any]) -> None:
    """Parse every file and print what is in it. Raises InvalidInputError with what is wrong in any of them."""
    violations: list[Violation] = []
    for name, text in [(name, read_file(name)) for name in files]:
        try:
            for found in kind.parse(_documents(text)):
                typer.echo(f"{name}: {kind.key_of(found)} is valid")
        except InvalidInputError as error:
            violations += violations_in(name, error)
    if len(violations) == 1:
        raise InvalidInputError(str(violations[0]), *violations)
    if violations:
        raise InvalidInputError(f"{len(violations)} problems", *violations)


def _documents(text: bytes) -> tuple[dict[str, object], ...]:
    documents = parse_documents(text)
    if not documents:
        raise InvalidInputError("there is no document in it")
    return documents

"""Checking documents before they are sent anywhere, with the parsers that the control plane uses."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.options import Config, Files, load_settings, read_file
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
def policy_check(
    files: Files,
    *,
    show: Annotated[bool, typer.Option("--show", help="Print what each rule matches, as it is evaluated.")] = False,
    config: Config = None,
) -> None:
    """Check AuthorizationPolicy documents; exit 0 if the control plane would take them all.

    With --show the settings count: the trust domain is written out in principals, and the root namespace is named.
    """
    from app.authz.rules.parse import POLICY_KIND

    _check(files, POLICY_KIND, _printer(config) if show else None)


def _printer(config: Path | None) -> Callable[[Any], list[str]]:
    from app.authz.rules.compile import compile_policy, describe_policy
    from app.main.parts import authz_options

    options = authz_options(load_settings(config).settings)
    return lambda policy: describe_policy(compile_policy(policy, options), options)


@quota.command("check")
def quota_check(files: Files) -> None:
    """Check rate limit configurations; exit 0 if the control plane would take them all."""
    from app.quota.rules.parse import QUOTA_KIND

    _check(files, QUOTA_KIND)


def _check(files: list[str], kind: DocumentKind[Any], about: Callable[[Any], list[str]] | None = None) -> None:
    """Parse every file and print which documents it has, each with the lines that `about` returns for it.

    Raises InvalidInputError with everything that is wrong in any file.
    """
    violations: list[Violation] = []
    for name, text in [(name, read_file(name)) for name in files]:
        try:
            for found in kind.parse(_documents(text)):
                typer.echo("\n  ".join([f"{name}: {kind.key_of(found)} is valid", *(about(found) if about else ())]))
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

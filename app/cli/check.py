"""Checking policies, and documents of any kind, before they are sent anywhere, with the control plane's parsers."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from app.cli.options import Config, load_settings
from app.core.errors import InvalidInputError, Violation
from app.documents.kind import DocumentKind
from app.documents.lines import with_lines
from app.documents.parser import MAX_TEXT_BYTES, parse_documents
from app.documents.reader import violations_in

policy = typer.Typer(name="policy", no_args_is_help=True, help="Authorization policies.")

Files = Annotated[list[str], typer.Argument(metavar="FILE…", help="YAML or JSON; - is standard input.")]


@policy.callback()
def group() -> None:
    """Make a group of a single command a group, too."""


@policy.command("check")
def policy_check(
    files: Files,
    *,
    show: Annotated[bool, typer.Option("--show", help="Print what each rule matches, as it is evaluated.")] = False,
    config: Config = None,
) -> None:
    """Check AuthorizationPolicy, RequestAuthentication, PeerAuthentication and CredentialAuthentication documents.

    Exit 0 if the control plane would accept all of them.

    With --config or --show the settings count: the provider of a CUSTOM policy has to be one of theirs. With --show the
    trust domain is written out in principals, and the root namespace is named.
    """
    from app.authz.model import AuthorizationPolicy
    from app.authz.rules.credential_rules import CREDENTIAL_AUTHENTICATION_KIND
    from app.authz.rules.jwt_rules import REQUEST_AUTHENTICATION_KIND
    from app.authz.rules.parse import POLICY_KIND
    from app.authz.rules.peers import PEER_AUTHENTICATION_KIND

    others: dict[str, DocumentKind[Any]] = {
        "RequestAuthentication": REQUEST_AUTHENTICATION_KIND,
        "PeerAuthentication": PEER_AUTHENTICATION_KIND,
        "CredentialAuthentication": CREDENTIAL_AUTHENTICATION_KIND,
    }
    if not show and config is None:
        check(files, POLICY_KIND, others=others)
        return
    from app.authz.rules.compile import compile_policy, describe_policy
    from app.authz.rules.parse import policy_kind
    from app.main.authorization import authz_options

    options = authz_options(load_settings(config).settings)
    kind = policy_kind(options.providers)

    def described(policy: AuthorizationPolicy) -> list[str]:
        return describe_policy(compile_policy(policy, options), options) if show else []

    check(files, kind, described, others=others)


def check(
    files: list[str],
    kind: DocumentKind[Any],
    describe: Callable[[Any], list[str]] = lambda _: [],
    *,
    others: Mapping[str, DocumentKind[Any]] = MappingProxyType({}),
) -> None:
    """Print each document of the files with its description: of one of `others` by its field `kind`, or of `kind`.

    Raises InvalidInputError with all that is wrong.
    """
    violations: list[Violation] = []
    for name, text in [(name, read_file(name)) for name in files]:
        try:
            documents = parse_documents(text)
        except InvalidInputError as error:
            violations += violations_in(name, error)
            continue
        there = {str(each.get("kind")) for each in documents}
        if not documents or not there <= others.keys():
            violations += _checked(name, text, documents, kind, kind.takes, describe)
        for other in sorted(there & others.keys()):
            takes = partial(_is_of, other)
            violations += _checked(name, text, documents, others[other], takes, lambda _: [])
    if violations:
        summary = str(violations[0]) if len(violations) == 1 else f"{len(violations)} problems"
        raise InvalidInputError(summary, *violations)


def _is_of(kind: object, document: Mapping[str, object]) -> bool:
    return document.get("kind") == kind


def _checked(
    name: str,
    text: bytes,
    documents: Sequence[Mapping[str, object]],
    kind: DocumentKind[Any],
    takes: Callable[[Mapping[str, object]], bool],
    describe: Callable[[Any], list[str]],
) -> Sequence[Violation]:
    """Print the documents of one kind in the file, and return what is wrong with them."""
    places = [number for number, each in enumerate(documents) if takes(each)]
    try:
        for number, found in zip(places, kind.parse(documents, text=text, takes=takes), strict=True):
            place = f"documents[{number}]." if len(documents) > 1 else ""
            warnings = [Violation(place + each.path, each.problem) for each in kind.warnings_of(found)]
            shown = [f"warning: {each}" for each in with_lines(text, warnings)]
            typer.echo("\n  ".join([f"{name}: {kind.key_of(found)} is valid", *describe(found), *shown]))
    except InvalidInputError as error:
        return violations_in(name, error)
    return ()


def read_file(name: str) -> bytes:
    """Return the content of a file, `-` for standard input, up to what the parser takes. Raises InvalidInputError."""
    try:
        if name == "-":
            return sys.stdin.buffer.read(MAX_TEXT_BYTES + 1)
        with Path(name).open("rb") as file:
            return file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise InvalidInputError(f"cannot read {name}: {error.strerror}") from error

"""Authorization in the admin API: the policies."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from pydantic import AliasPath, BeforeValidator, Field

from app.authz.model import Action, AuthorizationPolicy
from app.authz.rules.credential_rules import CredentialAuthentication
from app.authz.rules.jwt_rules import RequestAuthentication
from app.authz.rules.kubernetes import MAX_LABEL_LENGTH, MAX_NAME_LENGTH
from app.authz.rules.peers import PeerAuthentication, PeerMode
from app.documents.model import Change, DocumentKey
from app.documents.rest import DocumentRest, WarningView, warnings_of
from app.documents.store import DocumentStore
from app.transport.rest.authentication import Caller
from app.transport.rest.etags import IfMatch
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, ItemsResponse, Limit
from app.transport.rest.views import View, shown_as

POLICIES_PATH = "/v1/policies"
REQUEST_AUTHENTICATIONS_PATH = "/v1/request-authentications"
PEER_AUTHENTICATIONS_PATH = "/v1/peer-authentications"
CREDENTIAL_AUTHENTICATIONS_PATH = "/v1/credential-authentications"

Namespace = Annotated[str, Path(max_length=MAX_LABEL_LENGTH, description="The policy's namespace")]
Name = Annotated[str, Path(max_length=MAX_NAME_LENGTH, description="The policy's name")]
InNamespace = Annotated[str | None, Query(max_length=MAX_LABEL_LENGTH, description="Only this namespace's policies")]


class PolicyHead(View):
    """Which policy it is, and since when. `version` grows with every change of it."""

    namespace: str
    name: str
    version: int
    updated_at: datetime


class PolicyView(PolicyHead):
    """A policy: the document as it was given, and when."""

    document: dict[str, Any]


class WrittenPolicyView(PolicyView):
    """A policy as it was just written."""

    warnings: list[WarningView]


class AppliedView(View):
    """What became of a policy."""

    namespace: str = Field(validation_alias=AliasPath("stored", "namespace"))
    name: str = Field(validation_alias=AliasPath("stored", "name"))
    version: int = Field(validation_alias=AliasPath("stored", "version"))
    change: Change
    warnings: list[WarningView]


class AppliedList(View):
    """What became of each document, in their order."""

    items: list[AppliedView]


class ValidView(View):
    """A policy that would be accepted, with the number of its rules."""

    namespace: str
    name: str
    action: Action
    dry_run: bool
    rules: Annotated[int, BeforeValidator(len)]
    warnings: list[WarningView]


class ValidRequestAuthenticationView(View):
    """A request authentication that would be accepted, with the number of its rules."""

    namespace: str
    name: str
    rules: Annotated[int, BeforeValidator(len)]
    warnings: list[WarningView]


class ValidPeerAuthenticationView(View):
    """A peer authentication that would be accepted, with its mode."""

    namespace: str
    name: str
    mode: PeerMode


class ValidCredentialAuthenticationView(View):
    """A credential authentication that would be accepted, with the number of its rules."""

    namespace: str
    name: str
    rules: Annotated[int, BeforeValidator(len)]


class ValidCredentialAuthenticationList(View):
    """The credential authentications that would be accepted, in their order."""

    items: list[ValidCredentialAuthenticationView]


class ValidRequestAuthenticationList(View):
    """The request authentications that would be accepted, in their order."""

    items: list[ValidRequestAuthenticationView]


class ValidPeerAuthenticationList(View):
    """The peer authentications that would be accepted, in their order."""

    items: list[ValidPeerAuthenticationView]


class ValidList(View):
    """The policies that would be accepted, in their order."""

    items: list[ValidView]


class PolicyRest:
    """The endpoints of one kind of policy, under its path; `show` returns one that would be accepted, in JSON."""

    def __init__(self, policies: DocumentStore[Any, Any, Any], path: str, show: Callable[[Any], str]) -> None:
        self._policies, self._show = DocumentRest(policies, path, PolicyHead), show

    async def apply(self, caller: Caller, request: Request) -> ItemsResponse:
        """Apply policies: one or many documents of this kind, YAML or JSON, all of them or none.

        201 if a policy is new, 200 if all of them existed. They are active with the next check.
        """
        return await self._policies.apply(caller, request, shown_as(AppliedView))

    async def validate(self, request: Request) -> ItemsResponse:
        """Check whether policies would be accepted, list everything that is wrong with them, and change nothing."""
        return await self._policies.validate(request, self._show)

    async def list(
        self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None, namespace: InNamespace = None
    ) -> ItemsResponse:
        """List policies, in the order of namespace and name."""
        return await self._policies.page(limit, cursor, namespace)

    async def get(self, namespace: Namespace, name: Name) -> Response:
        """Get a policy; send its ETag back in If-Match to change exactly this version."""
        return await self._policies.get(DocumentKey(namespace, name))

    async def put(
        self, caller: Caller, namespace: Namespace, name: Name, request: Request, if_match: IfMatch = None
    ) -> Response:
        """Create or replace a policy with one document. 201 if there was none, 200 if it is replaced."""
        return await self._policies.put(caller, DocumentKey(namespace, name), request, if_match, warnings_of)

    async def delete(self, caller: Caller, namespace: Namespace, name: Name, if_match: IfMatch = None) -> None:
        """Delete a policy. It no longer applies to the next check."""
        await self._policies.delete(caller, DocumentKey(namespace, name), if_match)


def show_policy(policy: AuthorizationPolicy) -> str:
    """Return an authorization policy that would be accepted, in JSON."""
    return shown_as(ValidView)(policy)


def show_request_authentication(document: RequestAuthentication) -> str:
    """Return a request authentication that would be accepted, in JSON."""
    return shown_as(ValidRequestAuthenticationView)(document)


def show_peer_authentication(document: PeerAuthentication) -> str:
    """Return a peer authentication that would be accepted, in JSON."""
    return shown_as(ValidPeerAuthenticationView)(document)


def show_credential_authentication(document: CredentialAuthentication) -> str:
    """Return a credential authentication that would be accepted, in JSON."""
    return shown_as(ValidCredentialAuthenticationView)(document)

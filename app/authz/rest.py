"""Authorization in the admin API: the policies."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel

from app.authz.model import AppliedPolicy, Change, StoredPolicy
from app.authz.rules.kubernetes import MAX_LABEL_LENGTH, MAX_NAME_LENGTH, is_name, is_namespace
from app.authz.service import PolicyService
from app.core.errors import InvalidInputError, Violation
from app.documents.parser import parse_documents
from app.transport.rest.etags import IfMatch, etag_of, expected_version
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, Limit, Page, decode_cursor, encode_cursor

POLICIES_PATH = "/v1/policies"
VALIDATE_PATH = f"{POLICIES_PATH}/validate"
POLICY_PATH = f"{POLICIES_PATH}/{{namespace}}/{{name}}"

_CREATED = 201

Namespace = Annotated[str, Path(max_length=MAX_LABEL_LENGTH, description="The policy's namespace")]
Name = Annotated[str, Path(max_length=MAX_NAME_LENGTH, description="The policy's name")]
InNamespace = Annotated[str | None, Query(max_length=MAX_LABEL_LENGTH, description="Only this namespace's policies")]


class PolicyView(BaseModel):
    """A policy: the document as it was given, and when. `version` grows with every change of it."""

    namespace: str
    name: str
    version: int
    updated_at: datetime
    document: dict[str, Any]


class AppliedView(BaseModel):
    """What became of a policy: `created`, `updated` or `unchanged`."""

    namespace: str
    name: str
    version: int
    change: str


class AppliedList(BaseModel):
    """What became of each document, in their order."""

    items: list[AppliedView]


class ValidView(BaseModel):
    """A policy that would be accepted."""

    namespace: str
    name: str
    action: str
    rules: int


class ValidList(BaseModel):
    """The policies that would be accepted, in their order."""

    items: list[ValidView]


class PolicyRest:
    """The endpoints under `/v1/policies`."""

    def __init__(self, service: PolicyService) -> None:
        self._service = service

    async def apply(self, request: Request, response: Response) -> AppliedList:
        """Put policies in force: one or many AuthorizationPolicy documents, YAML or JSON, all of them or none.

        201 if a policy is new, 200 if all of them were there before. In force with the next check.
        """
        applied = await self._service.apply(await _documents(request))
        if any(each.change is Change.CREATED for each in applied):
            response.status_code = _CREATED
        return AppliedList(items=[_applied(each) for each in applied])

    async def validate(self, request: Request) -> ValidList:
        """Say whether policies would be accepted, with everything that is wrong with them, and change nothing."""
        policies = await self._service.validate(await _documents(request))
        views = [
            ValidView(namespace=p.namespace, name=p.name, action=p.action.value, rules=len(p.rules)) for p in policies
        ]
        return ValidList(items=views)

    async def list(
        self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None, namespace: InNamespace = None
    ) -> Page[PolicyView]:
        """Return the policies in order of namespace and name."""
        found = await self._service.page(_after(cursor), limit + 1, namespace)
        items = found[:limit]
        following = encode_cursor(f"{items[-1].namespace}/{items[-1].name}") if len(found) > limit else None
        return Page(items=[_view(stored) for stored in items], next_cursor=following)

    async def get(self, namespace: Namespace, name: Name, response: Response) -> PolicyView:
        """Return a policy; send its ETag back in If-Match to change exactly this one."""
        stored = await self._service.get(namespace, name)
        response.headers["ETag"] = etag_of(stored.version)
        return _view(stored)

    async def put(
        self, namespace: Namespace, name: Name, request: Request, response: Response, if_match: IfMatch = None
    ) -> PolicyView:
        """Put one document in force as this policy. 201 if there was none, 200 if it is replaced."""
        documents = await _documents(request)
        if len(documents) != 1:
            raise InvalidInputError(
                f"the body has {len(documents)} documents: send the one that is the policy",
                Violation("", "must be one document"),
            )
        applied = await self._service.replace(namespace, name, documents[0], expected_version(if_match))
        if applied.change is Change.CREATED:
            response.status_code = _CREATED
            response.headers["Location"] = f"{POLICIES_PATH}/{namespace}/{name}"
        response.headers["ETag"] = etag_of(applied.policy.version)
        return _view(applied.policy)

    async def delete(self, namespace: Namespace, name: Name, if_match: IfMatch = None) -> None:
        """Take a policy out of force, with the next check."""
        await self._service.delete(namespace, name, expected_version(if_match))


async def _documents(request: Request) -> Sequence[dict[str, object]]:
    body = await request.body()
    # In a thread: a large body takes a good part of a second, in which checks would wait.
    return await asyncio.to_thread(parse_documents, body)


def _after(cursor: str | None) -> tuple[str, str] | None:
    key = decode_cursor(cursor)
    if key is None:
        return None
    namespace, _, name = key.partition("/")
    if not is_namespace(namespace) or not is_name(name):
        raise InvalidInputError(
            "cursor is not one that this service made", Violation("cursor", "take next_cursor of the page before")
        )
    return namespace, name


def _applied(each: AppliedPolicy) -> AppliedView:
    policy = each.policy
    return AppliedView(namespace=policy.namespace, name=policy.name, version=policy.version, change=each.change.value)


def _view(stored: StoredPolicy) -> PolicyView:
    return PolicyView(
        namespace=stored.namespace,
        name=stored.name,
        version=stored.version,
        updated_at=stored.updated_at,
        document=dict(stored.document),
    )

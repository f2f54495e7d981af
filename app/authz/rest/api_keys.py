"""API keys in the admin API."""

import re
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Path, Response
from pydantic import BeforeValidator, Field

from app.authz.model import Labels
from app.authz.rules.api_keys import ApiKeySpec, labels_of
from app.authz.rules.kubernetes import MAX_LABEL_LENGTH, MAX_LABELS, MAX_NAME_LENGTH
from app.authz.service.api_keys import ApiKeys
from app.core.errors import NotFoundError
from app.transport.rest.authentication import Caller
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, ItemsResponse, Limit, page_of
from app.transport.rest.views import Input, View, shown_as

API_KEYS_PATH = "/v1/api-keys"
# Of ids, which have 32 hexadecimal digits; nothing else reaches the database.
MAX_ID_LENGTH = 64
_ID = re.compile(r"[0-9a-f]{32}")
MAX_SECONDS = 2**31 - 1

Id = Annotated[str, Path(max_length=MAX_ID_LENGTH)]


def _mapping(labels: object) -> object:
    return dict(labels) if isinstance(labels, tuple) else labels


class ApiKeyInput(Input):
    """Whom an API key proves, which workloads accept it, and how long: without `ttl_seconds` until it is revoked."""

    subject: str = Field(max_length=MAX_NAME_LENGTH, examples=["partner-a"])
    namespace: str = Field(default="", max_length=MAX_LABEL_LENGTH, examples=["shop"])
    labels: dict[str, str] = Field(default={}, max_length=MAX_LABELS, examples=[{"tier": "gold"}])
    ttl_seconds: Annotated[int, Field(ge=1, le=MAX_SECONDS)] | None = None

    def spec(self) -> ApiKeySpec:
        """Return what the key is made for."""
        labels: Labels = labels_of(self.labels)
        return ApiKeySpec(self.subject, self.namespace, labels)


class ApiKeyView(View):
    """An API key, without its text."""

    id: str
    subject: str
    namespace: str
    labels: Annotated[dict[str, str], BeforeValidator(_mapping)]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewApiKeyView(ApiKeyView):
    """An API key with its text, `key`, which is shown this once."""

    key: str


class ApiKeyRest:
    """The endpoints of API keys."""

    def __init__(self, api_keys: ApiKeys) -> None:
        self._api_keys = api_keys

    async def create(self, body: ApiKeyInput, caller: Caller, response: Response) -> NewApiKeyView:
        """Make an API key. Only this answer has its text."""
        lasts = None if body.ttl_seconds is None else timedelta(seconds=body.ttl_seconds)
        created = await self._api_keys.create(caller, body.spec(), lasts)
        response.headers["Location"] = f"{API_KEYS_PATH}/{created.key.id}"
        response.headers["Cache-Control"] = "no-store"
        return NewApiKeyView(**ApiKeyView.model_validate(created.key).model_dump(), key=created.text)

    async def list(self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None) -> ItemsResponse:
        """List the API keys, with those that expired or were revoked in the last week, in the order of their ids."""
        return await page_of(
            self._api_keys.page, cursor, limit, parse=_known, key=lambda key: key.id, render=shown_as(ApiKeyView)
        )

    async def get(self, key_id: Id) -> ApiKeyView:
        """Get an API key."""
        return ApiKeyView.model_validate(await self._api_keys.get(_known(key_id)))

    async def revoke(self, key_id: Id, caller: Caller) -> None:
        """Revoke an API key, for good."""
        await self._api_keys.revoke(caller, _known(key_id))


def _known(text: str) -> str:
    if not _ID.fullmatch(text):
        raise NotFoundError("there is no API key with this id")
    return text

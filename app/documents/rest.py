"""What the admin API does with documents; each feature's `rest.py` adds its paths, parameters and views."""

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic
from urllib.parse import quote

from fastapi import Request, Response

from app.core.json_text import JsonText
from app.documents.kind import Parsed
from app.documents.model import Applied, Change, DocumentKey, StoredDocument
from app.documents.store import DocumentStore
from app.spiffe.principal import Principal
from app.transport.rest.etags import etag_of, expected_version
from app.transport.rest.pages import ItemsResponse, page_of
from app.transport.rest.views import View, shown_as, with_texts

_OK, _CREATED = 200, 201


class WarningView(View):
    """A value of a valid document that may be meant otherwise than it is read, and where it stands."""

    path: str
    problem: str


def warnings_of(applied: Applied) -> dict[str, str]:
    """Return the field of an answer, in JSON, that has the warnings of what was applied: each a WarningView."""
    return {"warnings": json.dumps([{"path": each.path, "problem": each.problem} for each in applied.warnings])}


class DocumentRest(Generic[Parsed]):
    """The endpoints of one kind. `path` is where they are, `head` how a stored document is shown, without its content.

    The content is answered as the text that is stored, and never parsed here.
    """

    def __init__(self, store: DocumentStore[Parsed, Any, Any], path: str, head: type[View]) -> None:
        self._store, self._path, self._head = store, path, shown_as(head)

    async def apply(self, caller: Principal, request: Request, render: Callable[[Applied], str]) -> ItemsResponse:
        """Apply the documents in the body, all or none, and answer what became of each; 201 if one is new."""
        applied = await self._store.apply(caller, await request.body())
        is_new = any(each.change is Change.CREATED for each in applied)
        return ItemsResponse(applied, render, status=_CREATED if is_new else _OK)

    async def validate(self, request: Request, show: Callable[[Parsed], str]) -> ItemsResponse:
        """Answer what `show` makes of each document in the body, in JSON, and change nothing."""
        shown: Sequence[str] = await self._store.validate(await request.body(), show)
        return ItemsResponse(shown, str)

    async def page(self, limit: int, cursor: str | None, namespace: str | None = None) -> ItemsResponse:
        """Answer a page of the documents, in the order of their keys."""
        return await page_of(
            lambda after, count: self._store.page(after, count, namespace),
            cursor,
            limit,
            parse=self._key_of,
            key=lambda stored: "/".join(stored.key),
            render=self._shown,
            size=lambda stored: stored.size,
        )

    async def get(self, key: DocumentKey) -> Response:
        """Answer a document, and its version as ETag."""
        return self._answer(await self._store.get(key))

    async def put(
        self,
        caller: Principal,
        key: DocumentKey,
        request: Request,
        if_match: str | None,
        more: Callable[[Applied], Mapping[str, str]] = lambda _: {},
    ) -> Response:
        """Apply the one document in the body as the one with the key; 201 with its location if there was none.

        `more` returns further fields of the answer, in JSON.
        """
        applied = await self._store.replace(caller, key, await request.body(), expected_version(if_match))
        answer = self._answer(applied.stored, more(applied))
        if applied.change is Change.CREATED:
            answer.status_code = _CREATED
            answer.headers["Location"] = f"{self._path}/{quote(str(key))}"
        return answer

    async def delete(self, caller: Principal, key: DocumentKey, if_match: str | None) -> None:
        """Delete a document."""
        await self._store.delete(caller, key, expected_version(if_match))

    def _key_of(self, text: str) -> DocumentKey:
        namespace, _, name = text.partition("/")
        if not self._store.kind.is_key(key := DocumentKey(namespace, name)):
            raise ValueError("not a key of this kind")
        return key

    def _answer(self, stored: StoredDocument, more: Mapping[str, str] = MappingProxyType({})) -> Response:
        headers = {"ETag": etag_of(stored.version)}
        return Response(self._shown(stored, more), headers=headers, media_type="application/json")

    def _shown(self, stored: StoredDocument, more: Mapping[str, str] = MappingProxyType({})) -> str:
        return with_texts(self._head(stored), document=JsonText.of(stored.document).text, **more)

"""What the admin API does with documents; each feature's `rest.py` adds its paths, parameters and views."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from fastapi import Request, Response

from app.core.errors import InvalidInputError, Violation
from app.documents.kind import Parsed
from app.documents.model import Applied, Change, DocumentKey, StoredDocument
from app.documents.parser import parse_documents
from app.documents.store import DocumentStore
from app.spiffe.principal import Principal
from app.transport.rest.etags import etag_of, expected_version
from app.transport.rest.pages import Page, decode_cursor, page_of

_CREATED = 201

View = TypeVar("View")


class DocumentRest(Generic[Parsed, View]):
    """The endpoints of one kind. `path` is where they are, `view` how a stored document is shown."""

    def __init__(
        self, store: DocumentStore[Parsed, Any, Any], path: str, view: Callable[[StoredDocument], View]
    ) -> None:
        self._store, self._path, self._view = store, path, view

    async def apply(self, caller: Principal, request: Request, response: Response) -> Sequence[Applied]:
        """Apply the documents in the body, all or none; 201 if one is new."""
        applied = await self._store.apply(caller, await _documents(request))
        if any(each.change is Change.CREATED for each in applied):
            response.status_code = _CREATED
        return applied

    async def validate(self, request: Request) -> Sequence[Parsed]:
        """Return what the documents in the body describe, and change nothing."""
        return await self._store.validate(await _documents(request))

    async def page(self, limit: int, cursor: str | None, namespace: str | None = None) -> Page[View]:
        """Return a page of the documents, in the order of their keys."""
        found = await self._store.page(decode_cursor(cursor, self._key_of), limit + 1, namespace)
        return page_of(found, limit, self._view, lambda stored: "/".join(stored.key))

    async def get(self, key: DocumentKey, response: Response) -> View:
        """Return a document, and its version as ETag."""
        return self._shown(await self._store.get(key), response)

    async def put(
        self, caller: Principal, key: DocumentKey, request: Request, response: Response, if_match: str | None
    ) -> View:
        """Apply the one document in the body as the one with the key; 201 with its location if there was none."""
        documents = await _documents(request)
        if len(documents) != 1:
            raise InvalidInputError(
                f"the body has {len(documents)} documents: send one", Violation("", "must be one document")
            )
        applied = await self._store.replace(caller, key, documents[0], expected_version(if_match))
        if applied.change is Change.CREATED:
            response.status_code = _CREATED
            response.headers["Location"] = f"{self._path}/{quote(str(key))}"
        return self._shown(applied.stored, response)

    async def delete(self, caller: Principal, key: DocumentKey, if_match: str | None) -> None:
        """Delete a document."""
        await self._store.delete(caller, key, expected_version(if_match))

    def _key_of(self, cursor: str) -> DocumentKey:
        namespace, _, name = cursor.partition("/")
        if not self._store.kind.is_key(key := DocumentKey(namespace, name)):
            raise ValueError("not a key of this kind")
        return key

    def _shown(self, stored: StoredDocument, response: Response) -> View:
        response.headers["ETag"] = etag_of(stored.version)
        return self._view(stored)


async def _documents(request: Request) -> Sequence[dict[str, object]]:
    # In a thread: a large body takes a good part of a second, in which decisions would wait.
    return await asyncio.to_thread(parse_documents, await request.body())

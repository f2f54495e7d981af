"""A client of the admin API; each failure is a MeshwardError with one sentence."""

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import typer

from app.core.errors import (
    InternalError,
    InvalidInputError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    Violation,
)
from app.core.net import is_loopback
from app.transport.rest.authentication import read_token
from app.transport.rest.pages import MAX_PAGE_SIZE

TIMEOUT_SECONDS = 30.0
# Pages of a listing; nobody reads more items.
MAX_PAGES = 1000


class AdminClient:
    """Calls the control plane's admin API with a bearer token."""

    def __init__(
        self, url: str, token: str | None, token_path: Path, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Take `token`, or read it from `token_path`. Raises NotFoundError, PreconditionError, InvalidInputError."""
        self._url = _check_url(url)
        self._source = "MESHWARD_ADMIN_TOKEN" if token else str(token_path)
        self._token = _check_token(token) if token else _read_token(token_path)
        self._transport = transport

    def get(self, path: str, **parameters: str | int | None) -> Any:
        """Return the JSON at `path`."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._ask("GET", path, params=given)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send `body` to `path` and return the JSON of the answer."""
        return self._ask("POST", path, json=body)

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """Put `body` at `path` and return the JSON of the answer."""
        return self._ask("PUT", path, json=body)

    def delete(self, path: str) -> None:
        """Delete what is at `path`."""
        self._ask("DELETE", path)

    def items(
        self, path: str, *, max_pages: int | None = MAX_PAGES, **parameters: str | int | None
    ) -> Iterator[dict[str, Any]]:
        """Yield the items of a listing, page after page, up to a number of pages, or to the end if that is None."""
        cursor: str | None = None
        for _ in count() if max_pages is None else range(max_pages):
            page = self.get(path, **parameters, limit=MAX_PAGE_SIZE, cursor=cursor)
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def _ask(self, method: str, path: str, **content: Any) -> Any:
        try:
            # No proxy of the environment may see the token.
            with httpx.Client(transport=self._transport, trust_env=False, timeout=TIMEOUT_SECONDS) as client:
                headers = {"authorization": f"Bearer {self._token}"}
                response = client.request(method, self._url + path, headers=headers, **content)
        except httpx.TimeoutException as error:
            raise UnavailableError(f"{self._url} did not answer within {TIMEOUT_SECONDS:g} seconds") from error
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"there is no control plane at {self._url} ({error}): start it with meshward serve, or name another "
                "with --server"
            ) from error
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise UnauthenticatedError(f"{self._url} does not take the admin token of {self._source}")
        try:
            answer: Any = response.json() if response.content else None
            if response.is_success:
                return answer
            violations = [Violation(str(item["path"]), str(item["problem"])) for item in answer.get("violations", [])]
            detail = str(answer["detail"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InternalError(f"{self._url} answered {response.status_code}: is it Meshward's admin port?") from error
        if response.status_code == httpx.codes.NOT_FOUND:
            raise NotFoundError(detail)
        raise InvalidInputError(detail, *violations)


def path_segment(text: str) -> str:
    """Return `text` as one segment of a path."""
    return quote(text, safe="")


def _check_token(token: str) -> str:
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise InvalidInputError("MESHWARD_ADMIN_TOKEN is not an admin token: meshward admin token --show prints it")
    return token


def _read_token(path: Path) -> str:
    try:
        return read_token(path)
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no admin token at {path}: run this where the control plane's data dir is, "
            "or set MESHWARD_ADMIN_TOKEN"
        ) from error


def _check_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidInputError(f"{url!r} is not a URL: use http://127.0.0.1:15014") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise InvalidInputError(f"{url!r} is not a URL of http or https: use http://127.0.0.1:15014")
    if parsed.scheme == "http" and not is_loopback(parsed.host):
        typer.echo(f"meshward: the admin token goes to {parsed.host} unencrypted", err=True)
    return url.rstrip("/")

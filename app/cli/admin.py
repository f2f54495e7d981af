"""A client of the admin API, whose every failure is one sentence."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import typer

from app.core.errors import (
    InternalError,
    InvalidInputError,
    MeshwardError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    Violation,
)
from app.core.net import is_loopback
from app.transport.rest.authentication import read_token
from app.transport.rest.pages import MAX_PAGE_SIZE

TIMEOUT_SECONDS = 30.0
# Pages that a listing asks for; beyond it there are more items than anybody reads.
MAX_PAGES = 1000


class AdminClient:
    """Speaks to the control plane's admin API with a bearer token."""

    def __init__(
        self, url: str, token: str | None, token_path: Path, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Take `token`, or else the one in the file at `token_path`.

        Raises NotFoundError or PreconditionError if there is neither, InvalidInputError if `url` is not http(s) or
        `token` cannot be one.
        """
        self._url = _checked(url)
        self._source = "MESHWARD_ADMIN_TOKEN" if token else str(token_path)
        self._token = _checked_token(token) if token else _token_of(token_path)
        self._transport = transport

    def get(self, path: str, **parameters: str | int | None) -> Any:
        """Return the JSON at `path`."""
        return self._ask("GET", path, parameters=parameters)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send `body` to `path` and return the JSON of the answer."""
        return self._ask("POST", path, body)

    def delete(self, path: str) -> None:
        """Delete what is at `path`."""
        self._ask("DELETE", path)

    def items(self, path: str, **parameters: str | int | None) -> Iterator[dict[str, Any]]:
        """Yield the items of a listing, page after page."""
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = self.get(path, **parameters, limit=MAX_PAGE_SIZE, cursor=cursor)
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        parameters: Mapping[str, str | int | None] | None = None,
    ) -> Any:
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        try:
            # No proxy of the environment gets to see the token.
            with httpx.Client(transport=self._transport, trust_env=False, timeout=TIMEOUT_SECONDS) as client:
                response = client.request(
                    method,
                    self._url + path,
                    params=given,
                    json=body,
                    headers={"authorization": f"Bearer {self._token}"},
                )
        except httpx.TimeoutException as error:
            raise UnavailableError(f"{self._url} did not answer within {TIMEOUT_SECONDS:g} seconds") from error
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"there is no control plane at {self._url} ({error}): start it with meshward serve, or name another "
                "with --server"
            ) from error
        if response.is_success:
            return _json(response) if response.content else None
        raise self._refusal(response)

    def _refusal(self, response: httpx.Response) -> MeshwardError:
        if response.status_code == httpx.codes.UNAUTHORIZED:
            return UnauthenticatedError(f"{self._url} does not take the admin token of {self._source}")
        try:
            problem = response.json()
            detail, found = str(problem["detail"]), problem.get("violations", [])
            violations = [Violation(str(item["path"]), str(item["problem"])) for item in found]
        except (ValueError, TypeError, KeyError, AttributeError):
            return InternalError(f"{self._url} answered {response.status_code}: is it Meshward's admin port?")
        if response.status_code == httpx.codes.NOT_FOUND:
            return NotFoundError(detail)
        return InvalidInputError(detail, *violations)


def path_segment(text: str) -> str:
    """Return `text` as one segment of a path."""
    return quote(text, safe="")


def _checked_token(token: str) -> str:
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise InvalidInputError("MESHWARD_ADMIN_TOKEN is not an admin token: meshward admin token --show prints it")
    return token


def _token_of(path: Path) -> str:
    try:
        return read_token(path)
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no admin token at {path}: run this where the control plane's data dir is, "
            "or set MESHWARD_ADMIN_TOKEN"
        ) from error


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidInputError(f"{url!r} is not a URL: use http://127.0.0.1:15014") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise InvalidInputError(f"{url!r} is not a URL of http or https: use http://127.0.0.1:15014")
    if parsed.scheme == "http" and not is_loopback(parsed.host):
        typer.echo(f"meshward: the admin token goes to {parsed.host} unencrypted", err=True)
    return url.rstrip("/")


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise InternalError(f"{response.url} did not answer with JSON: is it Meshward's admin port?") from error

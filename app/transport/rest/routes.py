"""The types of the table of routes. A row cannot be written without its access."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Access(Enum):
    """Who may use a route. PUBLIC: any caller. ADMIN: the bearer of an admin token."""

    PUBLIC = "public"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table. `endpoint` is a FastAPI endpoint; `status` is the code of its success.

    `shown` is what the OpenAPI document shows where the endpoint makes its response itself.
    """

    method: str
    path: str
    endpoint: Callable[..., Any]
    access: Access
    status: int = 200
    tag: str = ""
    shown: Any = None

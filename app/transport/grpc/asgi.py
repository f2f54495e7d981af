"""What an ASGI application is given, and how servers differ where the specification leaves it open."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ServerTraits:
    """How an ASGI server behaves where the specification leaves it open.

    `trailers_only`: headers that an empty body follows end the stream with them. `answers_early`: a call can be ended
    before its request has ended. `cancels`: the task of a call whose client went away is cancelled.
    `client_of_connection`: all requests of a connection, and of no other, share one `client` object.
    """

    trailers_only: bool
    answers_early: bool
    cancels: bool
    client_of_connection: bool


# What h2corn's `receive()` gives has this attribute, of a future, if the event has yet to come.
NOT_THERE_YET = "add_done_callback"
H2CORN = ServerTraits(trailers_only=True, answers_early=True, cancels=True, client_of_connection=True)
PLAIN_ASGI = ServerTraits(trailers_only=False, answers_early=False, cancels=False, client_of_connection=False)

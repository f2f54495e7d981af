"""The admin API's frame around endpoints that fail in every way."""

from tests.support.fixtures.rest import client, health, make_app, stranger, things, token_path

__all__ = ["client", "health", "make_app", "stranger", "things", "token_path"]

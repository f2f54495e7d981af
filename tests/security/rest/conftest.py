"""The frame of the admin API, as the unit tests have it."""

from tests.unit.rest.conftest import (  # noqa: F401 - fixtures are found by their names
    client,
    health,
    make_app,
    metrics,
    stranger,
    things,
    token_path,
)

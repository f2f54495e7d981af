from tests.functional.main.conftest import serving, shared_server  # noqa: F401 - fixtures

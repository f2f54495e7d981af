"""Unit tests open no socket: a test that tries fails with the reason."""

import pytest
from pytest_socket import disable_socket, enable_socket


@pytest.fixture(autouse=True)
def _no_sockets():
    disable_socket(allow_unix_socket=True)  # the event loop wakes itself through a socket pair
    yield
    enable_socket()

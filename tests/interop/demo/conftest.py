import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def directory():
    """A short path: a Unix socket's has room for about a hundred bytes."""
    path = Path(tempfile.mkdtemp(prefix="mw"))
    yield path
    shutil.rmtree(path)

"""envoyproxy/ratelimit's own loader, beside ours: both load a document, or both refuse it."""

import subprocess

import pytest

from app.core.errors import InvalidInputError
from app.documents.parser import parse_documents
from app.quota.rules.parse import QUOTA_KIND
from tests.assets.ratelimit_documents import LOADED, LOADED_BY_IT_ALONE, REFUSED, REFUSED_BY_IT_ALONE, generated
from tests.support.peers import RATELIMIT_CONFIG_CHECK

pytestmark = pytest.mark.peer
DOCUMENTS = 400


@pytest.fixture
def loads(tmp_path):
    """Whether envoyproxy/ratelimit loads a text."""
    program = RATELIMIT_CONFIG_CHECK.required()

    def check(text):
        (tmp_path / "config.yaml").write_text(text)
        command = [program, "-config_dir", tmp_path]
        checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        loaded = checked.returncode == 0
        assert loaded == checked.stdout.endswith("all rate limit configs ok\n"), checked.stdout + checked.stderr
        return loaded

    return check


def test_the_recorded_documents_are_as_it_has_them(loads):
    assert [text for text in (*LOADED, *LOADED_BY_IT_ALONE.values()) if not loads(text)] == []
    assert [text for text in (*REFUSED, *REFUSED_BY_IT_ALONE.values()) if loads(text)] == []


def test_generated_documents_are_loaded_here_if_it_loads_them(loads):
    texts = [generated(seed) for seed in range(DOCUMENTS)]
    loaded = [text for text in texts if loads(text)]
    assert DOCUMENTS / 4 < len(loaded) < DOCUMENTS * 3 / 4
    differing = [text for text in texts if (text in loaded) != loads_here(text)]
    assert differing == []


def loads_here(text):
    try:
        QUOTA_KIND.parse(parse_documents(text.encode()))
    except InvalidInputError:
        return False
    return True

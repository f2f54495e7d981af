"""What envoyproxy/ratelimit loads and refuses is loaded and refused here, but for what the guide names.

What it does is recorded; tests/interop/quota runs it.
"""

import pytest

from app.core.errors import InvalidInputError
from app.documents.parser import parse_documents
from app.quota.rules.parse import QUOTA_KIND
from app.quota.rules.tree import compile_config
from tests.assets.ratelimit_documents import LOADED, LOADED_BY_IT_ALONE, REFUSED, REFUSED_BY_IT_ALONE


def load(text):
    (config,) = QUOTA_KIND.parse(parse_documents(text.encode()))
    return compile_config(config)


@pytest.mark.parametrize("text", [*LOADED, *REFUSED_BY_IT_ALONE.values()])
def test_a_document_that_is_valid_is_loaded(text):
    load(text)


@pytest.mark.parametrize("text", [*REFUSED, *LOADED_BY_IT_ALONE.values()])
def test_a_document_with_a_fault_is_refused(text):
    with pytest.raises(InvalidInputError) as caught:
        load(text)
    assert caught.value.violations

"""Entity tags: what was handed out comes back as its version, everything else is refused."""

import pytest

from app.core.errors import InvalidInputError, PreconditionError
from app.transport.rest.etags import etag_of, expected_version


@pytest.mark.parametrize("version", [0, 1, 10**18 - 1])
def test_a_tag_that_was_handed_out_is_read_back(version):
    assert expected_version(etag_of(version)) == version
    assert expected_version(f" {etag_of(version)}\t") == version


def test_without_the_header_any_version_will_do():
    assert expected_version(None) is None


@pytest.mark.parametrize("header", ['W/"1"', "1", '"x"', '""', "", '"-1"', '"1', '"1" ""', '"1"\n"2"'])
def test_a_tag_of_somebody_else_cannot_match(header):
    with pytest.raises(PreconditionError):
        expected_version(header)


@pytest.mark.parametrize("header", ["*", '"1", "2"', '"' + "1" * 100 + '"'])
def test_a_header_that_is_not_one_tag_is_refused(header):
    with pytest.raises(InvalidInputError):
        expected_version(header)

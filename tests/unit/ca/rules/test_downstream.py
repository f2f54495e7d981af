"""How deep a downstream authority may sign: each certificate above it limits that (RFC 5280, section 4.2.1.9)."""

from datetime import UTC, datetime, timedelta

import pytest

from app.ca.model import DownstreamPolicy
from app.ca.rules.downstream import authority_profile, may_sign_authorities
from app.spiffe.id import SpiffeId
from tests.assets.certificates import root_authority
from tests.assets.csrs import csr

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIFE = (NOW, NOW + timedelta(days=30))
REGION = SpiffeId.parse("spiffe://example.org/ns/mesh/sa/region-a")


def issuer(*limits):
    """Certificates from a signing one up to its root, with these path lengths."""
    authorities = [root_authority("root", *LIFE, path_length=limits[-1])]
    for limit in limits[-2::-1]:
        authorities.append(authorities[-1].authority("authority", *LIFE, path_length=limit))
    return [each.certificate for each in reversed(authorities)]


@pytest.mark.parametrize(
    ("limits", "allowed", "granted"),
    [
        ((None,), 0, 0),
        ((None,), 3, 3),
        ((1,), 3, 0),
        ((5,), 3, 3),
        ((1, None), 3, 0),
        ((2, None), 3, 1),
        ((2, 3, None), 3, 1),
        ((None, 2, None), 3, 0),  # that of the issuer's issuer
        ((None, None, 3), 3, 0),  # that of the root
        ((5, 3, 3), 9, 0),
        ((5, 4, 9), 9, 2),
    ],
)
def test_the_path_length_leaves_room_in_every_certificate_above(limits, allowed, granted):
    chain = issuer(*limits)
    assert may_sign_authorities(chain)
    profile = authority_profile(csr(), 0, DownstreamPolicy(REGION, timedelta(days=1), allowed), chain, NOW)
    assert profile.path_length == granted


@pytest.mark.parametrize("limits", [(0,), (0, None), (None, 1, None), (1, 1, None), (2, 1, None), (None, None, 2)])
def test_an_issuer_without_room_in_one_certificate_above_may_sign_no_authority(limits):
    assert not may_sign_authorities(issuer(*limits))


def test_a_root_that_signs_itself_counts_once():
    (root,) = issuer(1)
    assert may_sign_authorities([root, root])
    assert not may_sign_authorities(issuer(0) * 2)

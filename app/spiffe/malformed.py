"""What the X.509 library raises for input that is not what it claims to be."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

MALFORMED = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""Every kind, as some have no base in common; whoever parses hostile X.509 catches them together."""

"""Signing a leaf and, before it leaves, checking it as any peer would."""

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from app.ca.rules.profile import AuthorityKey, LeafProfile, leaf_builder, signing_hash
from app.core.errors import InternalError, InvalidInputError
from app.spiffe.malformed import MALFORMED
from app.spiffe.x509_svid import verify_svid


def sign_leaf(
    profile: LeafProfile, signer: x509.Certificate, key: AuthorityKey, root: x509.Certificate, now: datetime
) -> x509.Certificate:
    """Return the certificate that `profile` asks for, signed with the signer's key, read back and verified at `now`.

    Raises InternalError if it could not be signed, or what came out is not a valid SVID of the profile's identity and
    is held back.
    """
    try:
        signed = leaf_builder(profile, signer).sign(key, signing_hash(key))
        leaf = x509.load_der_x509_certificate(signed.public_bytes(Encoding.DER))
        verified = verify_svid((leaf, signer), (root,), profile.spiffe_id.trust_domain, now)
    except InvalidInputError as error:
        raise InternalError(f"the SVID that was signed is not valid and is held back: {error.message}") from error
    except MALFORMED as error:
        raise InternalError("the SVID could not be signed") from error
    if verified.spiffe_id != profile.spiffe_id:
        raise InternalError("the SVID that was signed is another identity's and is held back")
    return leaf

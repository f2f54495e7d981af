"""Authorities as an enterprise plugs them in: a root that is offline, what is between, and the files of each layout."""

from datetime import UTC, datetime, timedelta

from tests.assets.certificates import key_pem, root_authority

YEAR = timedelta(days=365)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def enterprise_root(name="Enterprise Root", now=NOW, **options):
    return root_authority(name, now - YEAR, now + 10 * YEAR, **options)


def mesh_ca(issuer, name="Mesh CA", now=NOW, **options):
    """A signing authority under another one, valid from a day before `now` for a year."""
    return issuer.authority(name, now - timedelta(days=1), now + YEAR, **options)


def cacerts(signer, *between, roots):
    """The contents of istiod's `cacerts`, by their names: the chain has the root too, as Istio's own tool makes it."""
    bundle = "".join(root.pem for root in roots)
    return {
        "ca-cert.pem": signer.pem.encode(),
        "ca-key.pem": key_pem(signer.key),
        "cert-chain.pem": "".join(each.pem for each in (signer, *between, roots[0])).encode(),
        "root-cert.pem": bundle.encode(),
    }


def tls_secret(signer, *between, roots):
    """The contents of a secret of the type kubernetes.io/tls, as cert-manager writes it."""
    return {
        "tls.crt": "".join(each.pem for each in (signer, *between)).encode(),
        "tls.key": key_pem(signer.key),
        "ca.crt": "".join(root.pem for root in roots).encode(),
    }

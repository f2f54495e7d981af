"""Issuers of JWTs: their public keys, fetched, kept and refreshed."""

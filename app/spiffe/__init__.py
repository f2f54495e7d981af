"""SPIFFE identities: ids, principals, X509-SVIDs and their one verifier, trust bundles. Pure."""

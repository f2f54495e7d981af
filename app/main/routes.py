"""The table of the admin API: every route under `/v1`, and who may use it."""

from app.audit.rest import AUDIT_PATH, AuditRecordView, AuditRest
from app.authz.rest.api_keys import API_KEYS_PATH, ApiKeyRest, ApiKeyView
from app.authz.rest.policies import (
    CREDENTIAL_AUTHENTICATIONS_PATH,
    PEER_AUTHENTICATIONS_PATH,
    POLICIES_PATH,
    REQUEST_AUTHENTICATIONS_PATH,
    AppliedList,
    PolicyRest,
    PolicyView,
    ValidCredentialAuthenticationList,
    ValidList,
    ValidPeerAuthenticationList,
    ValidRequestAuthenticationList,
    WrittenPolicyView,
    show_credential_authentication,
    show_peer_authentication,
    show_policy,
    show_request_authentication,
)
from app.ca.rest.authorities import AUTHORITIES_PATH, AUTHORITY_PATH, SIGNING_REQUESTS_PATH, AuthorityRest
from app.ca.rest.bans import BAN_PATH, BANS_PATH, CRL_PATH, REVOCATION_PATH, BanRest, BanView
from app.ca.rest.identities import ENTRIES_PATH, JOIN_TOKENS_PATH, EntryView, IdentityRest, JoinTokenView, SvidView
from app.ca.rest.log import LeafView, LogRest
from app.ca.service import CaService
from app.main.parts import Parts
from app.quota.rest import (
    CONFIG_PATH,
    CONFIGS_PATH,
    COUNTERS_PATH,
    EXPLAIN_PATH,
    RESET_PATH,
    RLCONFIG_PATH,
    CounterRest,
    QuotaConfigView,
    QuotaRest,
    WrittenQuotaConfigView,
)
from app.transport.rest.pages import Page
from app.transport.rest.routes import Access, Route
from app.transport.rest.views import View

ADMIN = Access.ADMIN
CREATED, NO_CONTENT, OK = 201, 204, 200


def route_table(parts: Parts) -> tuple[Route, ...]:
    """Return every row; the frame's own (health, metrics, the OpenAPI document) stand with it."""
    quotas = QuotaRest(parts.quotas)
    policies = PolicyRest(parts.policies.documents, POLICIES_PATH, show_policy)
    requests = PolicyRest(
        parts.authentication.requests.documents, REQUEST_AUTHENTICATIONS_PATH, show_request_authentication
    )
    peers = PolicyRest(parts.authentication.peers.documents, PEER_AUTHENTICATIONS_PATH, show_peer_authentication)
    credentials = PolicyRest(
        parts.authentication.credentials.documents, CREDENTIAL_AUTHENTICATIONS_PATH, show_credential_authentication
    )
    counters = CounterRest(parts.quota_counters)
    return (
        *ca_rows(parts.ca),
        *policy_rows(policies, POLICIES_PATH, ValidList),
        *policy_rows(requests, REQUEST_AUTHENTICATIONS_PATH, ValidRequestAuthenticationList),
        *policy_rows(peers, PEER_AUTHENTICATIONS_PATH, ValidPeerAuthenticationList),
        *policy_rows(credentials, CREDENTIAL_AUTHENTICATIONS_PATH, ValidCredentialAuthenticationList),
        *api_key_rows(ApiKeyRest(parts.api_keys)),
        Route("POST", EXPLAIN_PATH, quotas.explain, ADMIN, OK, "quota"),
        Route("GET", COUNTERS_PATH, counters.list, ADMIN, OK, "quota"),
        Route("POST", RESET_PATH, counters.reset, ADMIN, OK, "quota"),
        Route("GET", RLCONFIG_PATH, quotas.describe, ADMIN, OK, "quota"),
        Route("GET", CONFIGS_PATH, quotas.list, ADMIN, OK, "quota", Page[QuotaConfigView]),
        Route("GET", CONFIG_PATH, quotas.get, ADMIN, OK, "quota", QuotaConfigView),
        Route("PUT", CONFIG_PATH, quotas.put, ADMIN, OK, "quota", WrittenQuotaConfigView),
        Route("DELETE", CONFIG_PATH, quotas.delete, ADMIN, NO_CONTENT, "quota"),
        Route("GET", AUDIT_PATH, AuditRest(parts.audit).list, ADMIN, OK, "audit", Page[AuditRecordView]),
    )


def policy_rows(policies: PolicyRest, path: str, valid: type[View]) -> tuple[Route, ...]:
    """Return the rows of one kind of policy."""
    one = f"{path}/{{namespace}}/{{name}}"
    return (
        Route("POST", path, policies.apply, ADMIN, OK, "authz", AppliedList),
        Route("POST", f"{path}/validate", policies.validate, ADMIN, OK, "authz", valid),
        Route("GET", path, policies.list, ADMIN, OK, "authz", Page[PolicyView]),
        Route("GET", one, policies.get, ADMIN, OK, "authz", PolicyView),
        Route("PUT", one, policies.put, ADMIN, OK, "authz", WrittenPolicyView),
        Route("DELETE", one, policies.delete, ADMIN, NO_CONTENT, "authz"),
    )


def api_key_rows(api_keys: ApiKeyRest) -> tuple[Route, ...]:
    """Return the rows of API keys."""
    one = API_KEYS_PATH + "/{key_id}"
    return (
        Route("POST", API_KEYS_PATH, api_keys.create, ADMIN, CREATED, "authz"),
        Route("GET", API_KEYS_PATH, api_keys.list, ADMIN, OK, "authz", Page[ApiKeyView]),
        Route("GET", one, api_keys.get, ADMIN, OK, "authz"),
        Route("DELETE", one, api_keys.revoke, ADMIN, NO_CONTENT, "authz"),
    )


def ca_rows(ca: CaService) -> tuple[Route, ...]:
    """Return the rows of the CA."""
    identities, log = IdentityRest(ca), LogRest(ca.log)
    return (
        *authority_rows(AuthorityRest(ca)),
        Route("POST", ENTRIES_PATH, identities.create_entry, ADMIN, CREATED, "ca"),
        Route("GET", ENTRIES_PATH, identities.list_entries, ADMIN, OK, "ca", Page[EntryView]),
        Route("GET", ENTRIES_PATH + "/{entry_id}", identities.get_entry, ADMIN, OK, "ca"),
        Route("PUT", ENTRIES_PATH + "/{entry_id}", identities.replace_entry, ADMIN, OK, "ca"),
        Route("DELETE", ENTRIES_PATH + "/{entry_id}", identities.delete_entry, ADMIN, NO_CONTENT, "ca"),
        Route("POST", JOIN_TOKENS_PATH, identities.create_join_token, ADMIN, CREATED, "ca"),
        Route("GET", JOIN_TOKENS_PATH, identities.list_join_tokens, ADMIN, OK, "ca", Page[JoinTokenView]),
        Route("DELETE", JOIN_TOKENS_PATH + "/{token_id}", identities.delete_join_token, ADMIN, NO_CONTENT, "ca"),
        Route("GET", "/v1/svids", identities.list_svids, ADMIN, OK, "ca", Page[SvidView]),
        Route("GET", "/v1/log/head", log.head, ADMIN, OK, "ca"),
        Route("GET", "/v1/log/entries", log.list, ADMIN, OK, "ca", Page[LeafView]),
        Route("GET", "/v1/log/inclusion", log.inclusion, ADMIN, OK, "ca"),
        Route("GET", "/v1/log/consistency", log.consistency, ADMIN, OK, "ca"),
        *ban_rows(BanRest(ca.bans, ca.crls)),
    )


def authority_rows(authorities: AuthorityRest) -> tuple[Route, ...]:
    """Return the rows of authorities and of the trust bundle."""
    requests = SIGNING_REQUESTS_PATH
    return (
        Route("GET", "/v1/ca", authorities.get_ca, ADMIN, OK, "ca"),
        Route("GET", AUTHORITIES_PATH, authorities.list_authorities, ADMIN, OK, "ca"),
        Route("POST", AUTHORITIES_PATH, authorities.prepare, ADMIN, CREATED, "ca"),
        Route("GET", AUTHORITY_PATH + "/acknowledgements", authorities.acknowledgements, ADMIN, OK, "ca"),
        Route("POST", AUTHORITY_PATH + "/activate", authorities.activate, ADMIN, OK, "ca"),
        Route("POST", AUTHORITY_PATH + "/taint", authorities.taint, ADMIN, OK, "ca"),
        Route("POST", AUTHORITY_PATH + "/revoke", authorities.revoke, ADMIN, OK, "ca"),
        Route("GET", requests, authorities.list_signing_requests, ADMIN, OK, "ca"),
        Route("POST", requests + "/{request_id}/approve", authorities.approve_signing_request, ADMIN, OK, "ca"),
        Route("GET", "/v1/bundle", authorities.get_bundle, ADMIN, OK, "ca"),
    )


def ban_rows(bans: BanRest) -> tuple[Route, ...]:
    """Return the rows of bans."""
    return (
        # What verifiers fetch without a credential: it has serial numbers and a signature.
        Route("GET", CRL_PATH, bans.get_crl, Access.PUBLIC, OK, "ca"),
        Route("GET", BANS_PATH, bans.list, ADMIN, OK, "ca", Page[BanView]),
        Route("PUT", BAN_PATH, bans.ban, ADMIN, OK, "ca"),
        Route("DELETE", BAN_PATH, bans.unban, ADMIN, NO_CONTENT, "ca"),
        Route("PUT", REVOCATION_PATH, bans.revoke, ADMIN, OK, "ca"),
        Route("DELETE", REVOCATION_PATH, bans.unrevoke, ADMIN, NO_CONTENT, "ca"),
    )

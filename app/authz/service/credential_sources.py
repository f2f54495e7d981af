"""The sources of credentials: each kind of rule is judged by its own."""

from app.authz.model import Workload
from app.authz.rules.credential_rules import CredentialRule
from app.authz.rules.credentials import Outcome
from app.authz.service.api_keys import ApiKeys
from app.authz.service.credentials import CredentialVerifier


class CredentialSources(CredentialVerifier):
    """Passes a credential on to the source that its rule names."""

    def __init__(self, api_keys: ApiKeys) -> None:
        self._api_keys = api_keys

    def known(self, rule: CredentialRule, text: str, workload: Workload | None, /) -> Outcome | None:
        """Return what is known of a credential, as `CredentialVerifier.known` says."""
        return self._api_keys.outcome(rule.source, text, workload)

    async def ask(self, rule: CredentialRule, text: str, workload: Workload | None, /) -> Outcome:
        """Return whose credential it is, as `CredentialVerifier.ask` says."""
        return self._api_keys.outcome(rule.source, text, workload)

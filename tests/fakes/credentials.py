"""A source of credentials that has to be asked."""

from app.authz.rules.credential_rules import KnownSources
from app.authz.rules.credentials import CredentialProblem, Rejected
from app.authz.service.credentials import CredentialVerifier


class FakeVerifier(CredentialVerifier):
    """Knows the outcomes of credentials by their texts; an exception is raised. `asked` are those that were asked."""

    named = KnownSources()

    def __init__(self, outcomes):
        self.outcomes, self.asked = outcomes, []

    def known(self, rule, text, workload, /):
        return None

    async def ask(self, rule, text, workload, /):
        self.asked.append(text)
        outcome = self.outcomes.get(text, Rejected(CredentialProblem.INVALID, "it is unknown"))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

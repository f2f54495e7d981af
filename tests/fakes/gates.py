"""What a PolicyService asks before its policies, where nothing demands anything."""


class NothingDemanded:
    """No token is looked for, and no peer refused."""

    active = False

    def authenticate(self, _request):
        return None

    def refusal(self, _request):
        return None

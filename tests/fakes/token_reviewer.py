"""A TokenReviewer that knows some tokens."""

from app.core.errors import UnauthenticatedError


class FakeTokenReviewer:
    """Answers with the account, or the error, of a token; `asked` is what was asked."""

    def __init__(self, **answers) -> None:
        self.answers = answers
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def known(self, token, audiences):
        return None

    async def review(self, token, audiences):
        self.asked.append((token, audiences))
        answer = self.answers.get(token, UnauthenticatedError("unknown", reason="kubernetes_refused"))
        if isinstance(answer, Exception):
            raise answer
        return answer

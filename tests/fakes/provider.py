"""A provider of CUSTOM policies that answers what a test says."""

from app.authz.model import CheckInput
from app.authz.providers import Answer

DENIES = Answer("not today")


class FakeProvider:
    def __init__(self, answer: Answer | None = None, error: Exception | None = None) -> None:
        self.answer, self.error = answer or Answer(), error
        self.requests: list[CheckInput] = []

    async def __call__(self, request: CheckInput, /) -> Answer:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return self.answer

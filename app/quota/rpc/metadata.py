"""The dynamic metadata of an answer: the request and its quota mode violations, as envoyproxy/ratelimit writes them."""

from typing import Any

from google.protobuf.text_format import MessageToString

from app.quota.model import Answer, RateLimit
from app.quota.rules.match import MatchedRequest


def write_metadata(request: Any, matched: MatchedRequest, answer: Answer, metadata: Any) -> None:
    """Write into `metadata`, a Struct, what a RateLimitRequest asks, and which limits in quota mode it is over.

    Of `request` these are domain, descriptors and hits.
    """
    fields: dict[str, Any] = {
        "domain": request.domain,
        "descriptors": [_descriptor(descriptor) for descriptor in request.descriptors],
        "quotaModeEnabled": any(
            isinstance(applied.limit, RateLimit) and applied.limit.quota_mode
            for applied, _, _ in matched.descriptors
            if applied
        ),
    }
    if request.hits_addend:
        fields["hitsAddend"] = request.hits_addend
    if answer.violations:
        fields["quotaModeViolations"] = list(answer.violations)
    metadata.update(fields)


def _descriptor(descriptor: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"entries": [f"{entry.key}={entry.value}" for entry in descriptor.entries]}
    if descriptor.HasField("limit"):
        fields["limit"] = MessageToString(descriptor.limit, as_one_line=True)
    if descriptor.HasField("hits_addend"):
        fields["hitsAddend"] = descriptor.hits_addend.value
    return fields

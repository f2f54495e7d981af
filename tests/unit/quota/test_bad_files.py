"""Faults in the files of a directory: each named by file, line and key, while the old configurations stay."""

import pytest

from app.core.errors import InvalidInputError
from app.documents.sources import DirectorySource
from app.quota.model import MAX_ENTRIES, Code, Descriptor
from app.quota.rules.parse import QUOTA_KIND
from tests.fakes.quota import Quota

GOOD = "domain: shop\ndescriptors:\n- {key: user, rate_limit: {unit: day, requests_per_unit: 1}}\n"
ANN = Descriptor((("user", "ann"),))


def nested(depth, innermost):
    """A document whose `innermost` lines are in the descriptor at a depth; they begin on line 2 * depth + 1."""
    lines = ["domain: deep"]
    for level in range(depth):
        lines += [f"{'  ' * level}descriptors:", f"{'  ' * level}- key: k{level}"]
    return "\n".join([*lines, *(f"{'  ' * depth}{line}" for line in innermost)]) + "\n"


def path(depth):
    return ".".join(["descriptors[0]"] * depth)


FAULTS = {
    "not YAML": ("a: [\n", "line 2, column 1", "did not find expected node content"),
    "a key twice": ("domain: a\ndomain: b\n", "line 2, column 1", "key 'domain' is here twice"),
    "a wrong unit": (
        nested(5, ["rate_limit:", "  unit: fortnight", "  requests_per_unit: 1"]),
        f"line 13: {path(5)}.rate_limit.unit",
        "is not a unit of time",
    ),
    "an unknown field at the greatest depth": (
        nested(MAX_ENTRIES, ["weight: 1"]),
        f"line {2 * MAX_ENTRIES + 2}: {path(MAX_ENTRIES)}.weight",
        "is not a field here",
    ),
    "too deep": (
        nested(MAX_ENTRIES + 1, ["value: v"]),
        f"line {2 * MAX_ENTRIES + 2}: {path(MAX_ENTRIES)}.descriptors",
        "are nested deeper",
    ),
    "the same descriptor twice": (
        GOOD.replace("shop", "a") + "- key: user\n",
        "line 4: descriptors[1]",
        "has the same key and value",
    ),
    "a number that is negative": (
        nested(2, ["rate_limit: {unit: day, requests_per_unit: -1}"]),
        f"line 6: {path(2)}.rate_limit.requests_per_unit",
        "must be an integer from 0",
    ),
    "the domain of another file": (GOOD, "", "quota configuration 'shop' is in good.yaml, too"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_named_by_file_line_and_key_and_the_old_configuration_stays(fault, tmp_path, clock):
    text, place, problem = FAULTS[fault]
    (tmp_path / "good.yaml").write_text(GOOD)
    service = Quota(DirectorySource(QUOTA_KIND, tmp_path, clock), clock=clock)
    await service.documents.refresh()
    (tmp_path / "good.yaml").write_text(GOOD.replace("requests_per_unit: 1", "requests_per_unit: 9"))
    (tmp_path / "worse.yaml").write_text(text)
    for _ in range(2):
        with pytest.raises(InvalidInputError) as caught:
            await service.documents.refresh()
        found = [each for each in caught.value.violations if problem in each.problem]
        assert [each.path for each in found] == [f"worse.yaml: {place}".rstrip(": ")]
    assert [service.ask("shop", [ANN], 1).code for _ in range(2)] == [Code.OK, Code.OVER_LIMIT]
    (tmp_path / "worse.yaml").unlink()
    await service.documents.refresh()
    assert service.ask("shop", [ANN], 1).code is Code.OK

"""The threat model names tests for what it says is defended: they exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "guide" / "threat-model.md").read_text()


def test_every_test_that_it_names_exists():
    named = re.findall(r"`(tests/[^`]+)`", TEXT)
    assert named
    assert [each for each in named if not (ROOT / each).exists()] == []


def test_every_defence_names_its_tests():
    _, _, threats = TEXT.partition("## Boundaries")[2].partition("\n## ")
    rows = [line.split("|")[3] for line in threats.splitlines() if line.startswith("| ")]
    assert rows
    assert [row for row in rows if row != " shown by " and "`tests/" not in row] == []


def test_the_security_page_points_to_it():
    assert "(docs/guide/threat-model.md)" in (ROOT / "SECURITY.md").read_text()

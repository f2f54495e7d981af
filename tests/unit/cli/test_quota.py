"""The commands on rate limits, run in this process."""

import json

import pytest

from app.cli import cli
from app.cli.failures import guarded

LIMITS = """
domain: shop
descriptors:
- {key: user, rate_limit: {unit: minute, requests_per_unit: 5}}
- {key: user, value: "vip\\e[31m", rate_limit: {unlimited: true}}
"""


@pytest.fixture
def meshward(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "limits.yaml").write_text(LIMITS)

    def run(*arguments):
        status = guarded(lambda: cli(["quota", *arguments], prog_name="meshward"))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_files_are_explained_without_a_server(meshward):
    status, out, _ = meshward("explain", "limits.yaml", "--domain", "shop", "-e", "user=a=b")
    assert (status, out.splitlines()) == (
        0,
        [
            "user=a=b: user (it takes any value)",
            "  not user_vip�[31m: the value is another one",
            "limit: unit=MINUTE requests_per_unit=5, shadow_mode: false, quota_mode: false",
            "why: the last entry leads to it",
            "in metrics: shop.user",
            "counted by: a=b",
        ],
    )


def test_an_explanation_is_printed_for_programs(meshward):
    _, out, _ = meshward("explain", "limits.yaml", "--domain", "shop", "-e", "usr=ann", "-o", "json")
    (found,) = json.loads(out)
    assert (found["limit"], found["steps"][0]["matched"]) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--domain", "shop", "-e", "user"], "'user' is not KEY=VALUE"),
        (["--domain", "shop", "-e", "=x"], "is not KEY=VALUE"),
        (["--domain", "other", "-e", "user=x"], "the domain 'other' is not in limits.yaml"),
    ],
)
def test_what_cannot_be_explained_is_one_line(meshward, arguments, problem):
    status, out, err = meshward("explain", "limits.yaml", *arguments)
    assert (status, out, problem in err) == (1, "", True), err


FAULTS = """domain: shop
descriptors:
- key: user
  rate_limit:
    unit: fortnight
    requests_per_unit: 5
- key: user
- key: path
  rate_limit: {unit: day, requests_per_unit: 1, name: a, replaces: [{name: a}]}
"""


def test_a_fault_of_meaning_has_file_line_and_key(meshward, tmp_path):
    (tmp_path / "faults.yaml").write_text(FAULTS)
    status, _, err = meshward("check", "limits.yaml", "faults.yaml")
    assert status == 1
    for place in (
        "faults.yaml: line 5: descriptors[0].rate_limit.unit: is not a unit of time",
        "faults.yaml: line 7: descriptors[1]: has the same key and value",
        "faults.yaml: line 9: descriptors[2].rate_limit.replaces[0].name: is the name of the limit itself",
    ):
        assert place in err
    status, _, err = meshward("explain", "faults.yaml", "--domain", "shop", "-e", "user=a")
    assert (status, "line 5: descriptors[0].rate_limit.unit" in err) == (1, True)


def test_a_name_that_is_replaced_and_that_no_limit_has_is_a_warning_with_its_line(meshward, tmp_path):
    (tmp_path / "misspelled.yaml").write_text(
        """domain: first
---
domain: second
descriptors:
- key: user
  rate_limit: {unit: day, requests_per_unit: 1, name: per-user}
  descriptors:
  - key: path
    rate_limit:
      {unit: day, requests_per_unit: 1, replaces: [{name: per-user}, {name: per-usr}]}
"""
    )
    status, out, err = meshward("check", "misspelled.yaml")
    assert (status, err) == (0, "")
    assert out.splitlines()[2] == (
        "  warning: line 10: documents[1].descriptors[0].descriptors[0].rate_limit.replaces: "
        "no limit of the domain is called 'per-usr'"
    )


def test_limits_of_limitador_are_checked(meshward, tmp_path):
    (tmp_path / "good.yaml").write_text("- {namespace: shop, max_value: 1, seconds: 60}")
    (tmp_path / "bad.yaml").write_text("- {namespace: shop, max_value: 1, seconds: 60, conditions: ['x == 1']}")
    assert meshward("check", "--limitador", "good.yaml")[0] == 0
    status, _, err = meshward("check", "--limitador", "bad.yaml")
    assert (status, "bad.yaml: line 1: conditions[0]: has a variable that does not exist: x" in err) == (1, True), err


def test_variables_become_settings_and_notes(meshward, monkeypatch):
    monkeypatch.setenv("SHADOW_MODE", "true")
    monkeypatch.setenv("USE_STATSD", "false")
    status, out, err = meshward("import-env")
    assert (status, "[quota]\nshadow_mode = true\n" in out) == (0, True)
    assert "USE_STATSD has no counterpart" in err

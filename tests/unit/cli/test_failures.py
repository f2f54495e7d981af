"""How a command fails: one line and the status of each kind of failure."""

import re
from pathlib import Path

import pytest

from app.cli import failures
from app.cli.failures import guarded
from app.core.errors import InvalidInputError, Violation


def fail(error):
    def command():
        raise error

    return command


@pytest.fixture(autouse=True)
def _own_debug():
    token = failures.debug.set(False)
    yield
    failures.debug.reset(token)


def test_a_command_without_an_error_exits_with_0(capsys):
    assert guarded(lambda: None) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("code", "status"), [(None, 0), (0, 0), (2, 2), ("a message", 1)])
def test_a_command_that_exits_keeps_its_status(code, status):
    assert guarded(fail(SystemExit(code))) == status


def test_an_error_is_its_message_and_the_violations_that_the_message_omits(capsys):
    reported, omitted = Violation("a", "is wrong"), Violation("b", "is missing")
    assert guarded(fail(InvalidInputError("settings are wrong: a: is wrong", reported, omitted))) == 1
    assert capsys.readouterr().err == "meshward: settings are wrong: a: is wrong\n  b: is missing\n"
    assert guarded(fail(InvalidInputError("is wrong", reported))) == 1
    assert capsys.readouterr().err == "meshward: is wrong\n"


def test_an_internal_fault_is_one_line_and_a_file_with_the_traceback(capsys):
    assert guarded(fail(KeyError("what"))) == 70
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "Traceback" not in text
    found = re.search(r"the traceback is in (\S+)", text)
    assert found
    path = Path(found[1])
    assert "KeyError" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    path.unlink()


@pytest.mark.parametrize(("error", "status"), [(KeyError("what"), 70), (InvalidInputError("no"), 1)])
def test_debug_prints_the_traceback(capsys, error, status):
    failures.debug.set(True)
    assert guarded(fail(error)) == status
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_prints_nothing(capsys):
    assert guarded(fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""

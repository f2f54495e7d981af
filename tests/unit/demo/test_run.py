import io
from pathlib import Path

import pytest

from app.core.clock import SystemClock
from app.demo import run as module
from app.demo.mesh import USUAL_PORTS
from app.demo.run import ATTEMPTS, Demo
from app.demo.steps import Failure, Screen

TAKEN = Failure("ready", "e", "s", (("api", ("port 8081 on 127.0.0.1 is in use by another process",)),))
BROKEN = Failure("ready", "e", "s", (("api", ("no such file",)),))


class ScriptedDemo(Demo):
    """Its attempts end as in the script; `asked` keeps the ports of each."""

    script: list[Failure | None]
    asked: list

    def __init__(self, script):
        super().__init__(True, Path("/opt/envoy"), SystemClock(), Screen(io.StringIO()))
        object.__setattr__(self, "script", list(script))
        object.__setattr__(self, "asked", [])

    async def _attempt(self, addresses):
        self.asked.append(addresses)
        return self.script.pop(0)


@pytest.fixture(autouse=True)
def _no_ports(monkeypatch):
    monkeypatch.setattr(module, "choose_addresses", dict)


async def test_a_demo_whose_steps_pass_succeeds_on_the_usual_ports():
    demo = ScriptedDemo([None])
    assert await demo.run() == 0
    assert demo.asked == [USUAL_PORTS]


async def test_after_a_race_for_a_port_it_starts_again_without_the_usual_ones():
    demo = ScriptedDemo([TAKEN, None])
    assert await demo.run() == 0
    assert set(demo.asked[1].values()) == {0}
    assert demo.asked[1].keys() == USUAL_PORTS.keys()


async def test_attempts_are_bounded():
    demo = ScriptedDemo([TAKEN] * ATTEMPTS)
    assert await demo.run() == 1


async def test_any_other_failure_is_final():
    assert await ScriptedDemo([BROKEN]).run() == 1
    assert await ScriptedDemo([TAKEN, BROKEN]).run() == 1

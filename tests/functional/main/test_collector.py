"""What is made at the start is not looked at by the garbage collector later: that would hold up every check."""

import re
import signal
import subprocess
import sys

from tests.support.serving import PATIENCE, environment, eventually

REPORTS_AT_EXIT = """
import atexit, gc, runpy
atexit.register(lambda: print("frozen", gc.get_freeze_count(), "others", len(gc.get_objects()), flush=True))
runpy.run_module("app.cli", run_name="__main__")
"""


def test_the_objects_of_the_start_are_frozen(tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as file:
        command = [sys.executable, "-c", REPORTS_AT_EXIT, "serve"]
        process = subprocess.Popen(command, env=environment(tmp_path / "data"), stdout=file, stderr=file)
    try:
        eventually(lambda: '"event": "listening"' in log.read_text(), "the ports")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
    frozen, others = map(int, re.search(r"frozen (\d+) others (\d+)", log.read_text()).groups())
    assert frozen > others > 0

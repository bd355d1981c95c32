"""The process that workers are forked from: what its forks find, and that it ends with its command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsiseg.run.forerunner import WORKER_ENVIRONMENT, can_fork

pytestmark = pytest.mark.skipif(not can_fork(), reason="workers are forked on Linux only")

SCRIPT = """
import json, multiprocessing, os, signal, sys
from wsiseg.run import forerunner

def tell(queue):
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    names = list(forerunner.WORKER_ENVIRONMENT)
    queue.put(["heavy" in sys.modules, blocked, {name: os.environ.get(name) for name in names}, os.getppid()])

if __name__ == "__main__":
    forerunner._IMPORTED = ["heavy"]
    os.environ["OMP_NUM_THREADS"] = "3"
    before = dict(os.environ)
    forerunner.start_forerunner()
    forerunner.start_forerunner()
    assert dict(os.environ) == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if sys.argv[1:] == ["end"]:
        sys.exit()
    context = multiprocessing.get_context("forkserver")
    queue = context.Queue()
    for _ in range(2):
        process = context.Process(target=tell, args=(queue,))
        process.start()
        print(json.dumps(queue.get()), flush=True)
        process.join()
"""


def script(folder: Path, heavy: str) -> Path:
    (folder / "heavy.py").write_text(heavy)
    path = folder / "command.py"
    path.write_text(SCRIPT)
    return path


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join((str(path.parent), *sys.path))
    env = {name: value for name, value in os.environ.items() if name not in WORKER_ENVIRONMENT}
    return subprocess.run(
        [sys.executable, str(path), *arguments], env={**env, "PYTHONPATH": search}, timeout=120,
        capture_output=True, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_forks_have_the_imports_the_environment_and_ignore_ctrl_c(tmp_path: Path) -> None:
    done = run(script(tmp_path, "print('imported', flush=True)"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.count("imported") == 1
    one, other = (json.loads(line) for line in lines if line != "imported")
    assert one == other  # of one parent
    assert one[:2] == [True, True]
    assert one[2] == {**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": "3"}  # what the user says goes before


def test_it_ends_with_its_command_even_while_it_imports(tmp_path: Path) -> None:
    """Else whoever reads the command's output would wait for it."""
    started = time.monotonic()
    done = run(script(tmp_path, "import time; time.sleep(300)"), "end")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 100

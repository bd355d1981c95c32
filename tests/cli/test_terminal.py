"""What the commands print, on every stream: closed, full, left by its reader, narrow, a terminal under attack."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from wsiseg_cli.progress import outcome_line
from wsiseg_cli.terminal import one_line, printable

from wsiseg.run.events import SlideEnded
from wsiseg.testing import write_slide, write_svs

COMMAND = [sys.executable, "-m", "wsiseg_cli"]
NASTY = "\x1b]0;owned\x07 \x9b2J \u202egnp \udcff naïve 漢字 😐 \r"


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "a.svs"
    write_slide(path, width=600, height=600, seed=3)
    return path


def script(code: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A process that prints by means of ``terminal``; exit code 5 if its output is lost."""
    code = (
        "import sys\nfrom wsiseg_cli.terminal import *\nguard_streams()\n"
        f"{code}\nfault = output_fault()\nif fault: note(fault)\nsys.exit(5 if fault else 0)"
    )
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60, **options}
    return subprocess.run([sys.executable, "-c", code], check=False, **options)


def wsiseg(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    return subprocess.run([*COMMAND, *map(str, arguments)], check=False, timeout=300, **options)


def segment(slide: Path, out: Path, *more: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return wsiseg("segment", slide, "-o", out, "-m", "classical", "-w", "0", "--device", "cpu", *more, **options)


def left_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def closing(*numbers: int) -> Callable[[], None]:
    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


# ---------------------------------------------------------------- text


def test_what_a_terminal_would_obey_is_shown_instead() -> None:
    assert printable("a\x1b[2J\nb\tc") == "a\\x1b[2J\nb\tc"
    assert one_line("a\nb") == "a\\nb"
    shown = printable(NASTY)
    assert "naïve 漢字 😐" in shown
    assert shown.encode()  # no byte that is no text
    assert all(c.isprintable() for c in shown)
    assert printable(shown) == shown


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_every_text_can_be_written_to_every_stream(encoding: str) -> None:
    code = f"text = {NASTY!r}\ntell(text)\nnote(text)\nprint(text)\nprint(text, file=sys.stderr)"
    done = script(code, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    for output in (done.stdout, done.stderr):
        text = output.decode(encoding)
        assert text.count("\\x1b]0;owned\\x07") == 2  # whoever writes
        assert not any(c in text for c in "\x1b\x07\x9b\r\u202e")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_json_is_json_on_every_stream(encoding: str) -> None:
    code = f"tell_json({{'µ': [{NASTY!r}, float('nan')], 'n': 1.5}})"
    done = script(code, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert json.loads(done.stdout.decode(encoding)) == {"µ": [NASTY, None], "n": 1.5}
    plain = script("tell_json(['µ 漢'])", env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert "µ 漢" in plain.stdout.decode()


def test_one_line_of_a_run_stays_one() -> None:
    grade = SimpleNamespace(grade="Good", summary="1 of 20 bad", interval=(0.0, 0.2), words="one\nout of focus")
    pace = SimpleNamespace(bound="end", mpx_per_s=2.5, peak_mib=900.0, device_busy=0.25)
    record = SimpleNamespace(status="complete", nuclei=3, tissue_mm2=1.0, grade=grade, performance=pace)
    line = outcome_line(SlideEnded("new\nline\x1b[2J", record))
    assert line.startswith("new\\nline\\x1b[2J: 3 nuclei")
    assert line.endswith("out of focus [2.5 Mpx/s, bound by the slide's end, device busy 25%; 900 MiB a process]")


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize(
    ("says", "stdout", "code"),
    [
        ("tell('x')", "full", 5),
        ("tell('x' * 100000)", "full", 5),
        ("mention('x')", "full", 0),
        ("tell('x' * 100000)\nmention('y')", "full", 5),
        ("tell('x' * 1000000)", "left", 0),  # its reader has what it wanted
        ("tell('x')", "closed", 0),
    ],
)
def test_output_that_nobody_gets(says: str, stdout: str, code: int) -> None:
    options: dict[str, Any] = {}
    if stdout == "closed":
        options["preexec_fn"] = closing(1)
    else:
        options["stdout"] = os.open("/dev/full", os.O_WRONLY) if stdout == "full" else left_pipe()
    done = script(says, **options)
    if "stdout" in options:
        os.close(options["stdout"])
    assert done.returncode == code
    assert (b"No space left" in done.stderr) == (code == 5)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("stderr", ["full", "left", "closed"])
def test_progress_that_nobody_sees_ends_nothing(stderr: str) -> None:
    options: dict[str, Any] = {}
    if stderr == "closed":
        options["preexec_fn"] = closing(2)
    else:
        options["stderr"] = os.open("/dev/full", os.O_WRONLY) if stderr == "full" else left_pipe()
    done = script("note('x' * 100000)\nis_terminal()\ntell('done')", **options)
    if "stderr" in options:
        os.close(options["stderr"])
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_a_closed_streams_number_is_not_given_to_a_file() -> None:
    code = "import os\nassert os.open(os.devnull, os.O_RDONLY) > 2\nprint('gone')"
    assert script(code, preexec_fn=closing(0, 1, 2)).returncode == 0


def test_a_pipe_that_does_not_wait_gets_everything() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    read: list[bytes] = []

    def drain() -> None:
        with open(reading, "rb") as file:
            read.append(file.read())

    thread = threading.Thread(target=drain)
    thread.start()
    done = script("tell('x' * 1000000)", stdout=writing)
    os.close(writing)
    thread.join()
    assert done.returncode == 0
    assert read == [b"x" * 1000000 + b"\n"]


# ---------------------------------------------------------------- commands


def test_info_says_when_its_answer_is_lost(slide: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = wsiseg("info", slide, stdout=full)
    assert done.returncode == 5
    assert b"cannot write to standard output: No space left on device" in done.stderr
    assert wsiseg("info", "/no/such", preexec_fn=closing(2)).returncode == 2
    assert wsiseg("--help", stdout=left_pipe()).returncode == 0


def test_info_shows_names_and_properties_of_strangers(tmp_path: Path) -> None:
    image = np.full((256, 256, 3), 200, dtype=np.uint8)
    named = os.path.join(os.fsencode(tmp_path), b"\x1b]0;x\x07\xff.svs")
    write_svs(tmp_path / "p.svs", image, levels=(1,), properties={"Evil": "\x1b[2J\x07"})
    shutil.copy(tmp_path / "p.svs", named)
    (tmp_path / "\x1b[31mbad\n.svs").write_bytes(b"xx")
    paths = [tmp_path / "p.svs", os.fsdecode(named), tmp_path / "\x1b[31mbad\n.svs"]
    text = wsiseg("info", "--properties", *paths)
    assert text.returncode == 3
    assert b"\\x1b[2J" in text.stdout
    assert not any(c in text.stdout + text.stderr for c in b"\x1b\x07\xff")
    answer = wsiseg("info", "--json", *paths)
    assert [entry["path"] for entry in json.loads(answer.stdout)] == [str(path) for path in paths]


def test_a_run_ends_as_it_would_whatever_becomes_of_its_words(slide: Path, tmp_path: Path) -> None:
    left = left_pipe()
    assert segment(slide, tmp_path, stdout=left, stderr=left).returncode == 0
    assert json.loads((tmp_path / "a" / "slide.json").read_text())["status"] == "complete"
    with open("/dev/full", "wb") as full:
        told = segment(slide, tmp_path, stdout=full, env={**os.environ, "TERM": "xterm", "FORCE_COLOR": "1"})
        asked = segment(slide, tmp_path, "--json", stdout=full)
    assert told.returncode == 0  # all that it says is on disk
    assert all(line.isprintable() for line in told.stderr.decode().splitlines())  # no terminal: plain lines
    assert told.stderr.startswith(b"[1/1] a: ")
    assert asked.returncode == 5  # the answer is not
    assert asked.stderr.startswith(b"wsiseg: cannot write")  # and --json has no progress


SWALLOWED = """
import signal, sys
import wsiseg.run.pipeline
planned = wsiseg.run.pipeline.assign_ids
def swallowing(*arguments):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass  # as ctypes' callbacks, finalisers and some imports do
    return planned(*arguments)
wsiseg.run.pipeline.assign_ids = swallowing
from wsiseg_cli.main import main
main()
"""


def test_an_interrupt_that_a_library_swallows_is_heeded(slide: Path, tmp_path: Path) -> None:
    arguments = ["segment", str(slide), "-o", str(tmp_path), "-m", "classical", "-w", "0", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED, *arguments], capture_output=True, timeout=300, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert not (tmp_path / "a" / "slide.json").exists()


def test_a_folder_that_is_gone_is_named(slide: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os, runpy, sys\nos.rmdir({str(gone)!r})\nsys.argv = ['wsiseg', 'info', 'a.svs']\n"
    code += "from wsiseg_cli.main import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], cwd=gone, capture_output=True, text=True, timeout=60)
    assert done.returncode in (2, 5), done.stderr
    assert "internal error" not in done.stderr


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1", "words"])
def test_microns_that_are_none_are_refused_as_usage(slide: Path, tmp_path: Path, value: str) -> None:
    for arguments in (["info", f"--mpp={value}"], ["tile", "-o", tmp_path / "o", f"--slide-mpp={value}"]):
        done = wsiseg(arguments[0], slide, *arguments[1:])
        assert done.returncode == 2
        assert b"microns per pixel above 0" in done.stderr


def test_a_pipe_for_a_table_is_refused_instead_of_waited_for(slide: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    done = wsiseg("info", slide, "--mpp-csv", tmp_path / "t.csv")
    assert done.returncode == 2
    assert b"it is a named pipe" in done.stderr

"""The commands as a user runs them: processes, exit codes, what they print and what they leave."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from wsiseg_cli.group import cli, module_of
from wsiseg_cli.main import main

from wsiseg.testing import Truth, write_slide
from wsiseg.testing.runs import same_results

COMMAND = [sys.executable, "-m", "wsiseg_cli"]


def wsiseg(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )


def test_help_names_every_command_and_the_reference_is_in_step(repository: Path) -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    names = cli.list_commands(None)  # type: ignore[arg-type]
    assert all(name in result.output for name in names)
    # In a process of its own: click keeps the help option of whichever way a command was first called.
    command = [sys.executable, "-m", "wsiseg_cli.reference"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    written = (repository / "docs" / "cli.md").read_text()
    assert written == made.stdout, "docs/cli.md is out of date: make docs"


def test_every_command_module_is_listed(repository: Path) -> None:
    folder = repository / "cli" / "wsiseg_cli"
    helpers = {"__init__", "__main__", "main", "group", "options", "reference", "terminal"}
    helpers |= {"interrupt", "named", "progress", "qcvalidate", "synthtrain", "trainprogress"}
    modules = {module_of(name) for name in cli.list_commands(None)}  # type: ignore[arg-type]
    assert {path.stem for path in folder.glob("*.py")} - helpers == modules


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["segment", "/no/such.svs", "-o", "{out}"], 2, "no such file"),
        (["segment", "{slide}", "-o", "{out}", "--roi", "1,2,3"], 2, "four numbers"),
        (["segment", "{slide}", "-o", "{out}", "--roi", "nan,2,3,4"], 2, "finite numbers"),
        (["segment", "{slide}", "-o", "{out}", "--mpp", "-1"], 2, "--mpp"),
        (["segment", "{slide}", "-o", "{out}", "-m", "no-such-model", "-w", "0"], 2, "no-such-model"),
        (["segment", "{slide}", "-o", "{slide}", "-m", "classical", "-w", "0"], 5, "in the way"),
        (["report", "{empty}"], 2, "no finished slides"),
        (["export", "{empty}", "--to", "geojson"], 2, "no segmented slide"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_a_wrong_request_says_what_was_expected(
    arguments: list[str], code: int, says: str, drawn: tuple[Path, Truth], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"slide": drawn[0], "out": tmp_path / "out", "empty": tmp_path / "empty"}
    result = wsiseg(*(text.format(**places) for text in arguments))
    assert result.returncode == code, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert drawn[0].stat().st_size > 1000


def invoke(*arguments: object) -> str:
    """What a command prints that ends well, in this process."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_scheduler_that_does_not_answer(
    drawn: tuple[Path, Truth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("wsiseg.run.cluster.patience.CONNECT_S", 1.0)
    words = ["segment", str(drawn[0]), "-o", str(tmp_path), "--scheduler", "tcp://127.0.0.1:9"]
    monkeypatch.setattr(sys, "argv", ["wsiseg", *words])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        main()
    signal.signal(signal.SIGTERM, handler)
    assert end.value.code == 5
    said = capsys.readouterr().err
    assert "no Dask scheduler" in said
    assert "Traceback" not in said


def test_a_cohort_of_good_and_bad_slides(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    (folder / "sub").mkdir(parents=True)
    write_slide(tmp_path / "small.svs", width=768, height=768, layout="dense", seed=3)
    os.symlink(tmp_path / "small.svs", folder / "good one.svs")
    (folder / "sub" / "<img onerror=alert(1)>.svs").write_bytes(b"no slide")
    write_slide(folder / "nameless.svs", width=600, height=600, describe_mpp=False)
    out = tmp_path / "out"
    result = wsiseg("segment", folder, "-o", out, "-m", "classical", "-w", "0", "--json")
    assert result.returncode == 3, result.stderr
    summary = json.loads(result.stdout)
    assert sorted(slide["status"] for slide in summary["slides"]) == ["complete", "failed", "failed"]
    assert "<img onerror" not in (out / "report.html").read_text()
    assert (out / "good_one" / "slide.json").exists()

    exported = invoke("export", out, "--to", "geojson.gz")
    assert Path(exported.strip()).name == "good_one.geojson.gz"
    invoke("overlay", out / "good_one", "--roi", "300,300,300,200", "-o", tmp_path / "o.png")
    assert (tmp_path / "o.png").stat().st_size > 1000
    assert invoke("report", out).strip() == str(out / "report.html")


def test_a_dry_run_says_what_is_expected_and_writes_nothing(tmp_path: Path) -> None:
    write_slide(tmp_path / "s.svs", width=512, height=512, layout="dense", seed=4)
    (tmp_path / "bad.svs").write_bytes(b"no slide")
    words = ("segment", tmp_path, "-o", tmp_path / "out", "-m", "classical", "--device", "cpu", "--dry-run")
    done = wsiseg(*words, "--json")
    assert done.returncode == 3, done.stderr
    bad, good = json.loads(done.stdout)
    assert "error" in bad
    assert (good["slide"], good["tiles"]) == ("s.svs", 1)
    assert good["seconds_low"] < good["seconds"] < good["seconds_high"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.svs", "s.svs"]


def test_info_and_models_and_doctor_answer_in_json(drawn: tuple[Path, Truth]) -> None:
    (info,) = json.loads(wsiseg("info", drawn[0], "--json").stdout)
    assert (info["width"], info["height"]) == (3072, 3072)
    assert info["mpp"] == 0.25
    names = [card["name"] for card in json.loads(wsiseg("models", "--json").stdout)]
    assert "classical" in names
    assert len(names) >= 2
    doctor = wsiseg("doctor")
    assert doctor.returncode == 0, doctor.stdout


def heed_ctrl_c() -> None:
    """In the child: a test run that was started in the background passes on that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("module", "arguments", "goes_on"),
    [
        ("click", ["segment", "{slide}", "-o", "{out}"], False),  # before it knows what it is to do
        ("numpy", ["segment", "{slide}", "-o", "{out}"], True),
        ("numpy", ["--debug", "segment", "{slide}", "-o", "{out}"], True),
        ("numpy", ["synth", "hou", "--textures", "{folder}", "--count", "3", "-o", "{out}"], True),
        ("numpy", ["synth", "export", "{folder}", "-o", "{out}"], True),
        ("numpy", ["synth", "train", "adain-small", "-o", "{out}"], True),
        ("numpy", ["synth", "sheet", "{folder}", "-o", "{out}"], False),
        ("numpy", ["report", "{folder}"], False),
    ],
)
def test_ctrl_c_while_libraries_are_imported(
    module: str, arguments: list[str], goes_on: bool, tmp_path: Path
) -> None:
    """``module`` never ends its import; it waits inside an exec(), of which CPython makes a point at exit."""
    (tmp_path / "libraries").mkdir()
    waiting = "exec(\"import time; print('importing', flush=True); time.sleep(300)\")"
    (tmp_path / "libraries" / f"{module}.py").write_text(waiting)
    (tmp_path / "segment.svs").write_bytes(b"")
    places = {"slide": tmp_path / "segment.svs", "out": tmp_path / "out", "folder": tmp_path}
    search = os.pathsep.join((str(tmp_path / "libraries"), os.environ.get("PYTHONPATH", "")))
    process = subprocess.Popen(
        [*COMMAND, *(text.format(**places) for text in arguments)],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c,
        env={**os.environ, "PYTHONPATH": search},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    first, *rest = errors.strip().splitlines()
    if goes_on:
        assert first == "stopped; nothing finished is lost. To go on:"
        assert rest == [f"  python -m wsiseg_cli {' '.join(arguments).format(**places)}"]
    else:
        assert (first, rest) == ("stopped", [])


@pytest.mark.slow
def test_ctrl_c_stops_soon_and_prints_how_to_go_on(drawn: tuple[Path, Truth], tmp_path: Path) -> None:
    command = [*COMMAND, "segment", str(drawn[0]), "-o", str(tmp_path), "--tile", "256", "-m", "classical"]
    process = subprocess.Popen(
        [*command, "-w", "2", "--dashboard-address", "127.0.0.1:0"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "tiles" in line:
            break
    stopped = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - stopped < 10
    assert process.returncode == 130
    assert "To go on:" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(drawn: tuple[Path, Truth], tmp_path: Path) -> None:
    """The whole process group, scheduler and workers included, dies five times; the results are the same."""
    settings = ["-m", "classical", "--tile", "512", "-w", "2", "--dashboard-address", "127.0.0.1:0"]
    clean = tmp_path / "clean"
    assert wsiseg("segment", drawn[0], "-o", clean, *settings).returncode == 0
    # The first run compiled; how long one takes from now on is what the deaths have to fall into.
    started = time.monotonic()
    assert wsiseg("segment", drawn[0], "-o", tmp_path / "warm", *settings).returncode == 0
    duration = time.monotonic() - started
    moments, killed, deaths = random.Random(5), tmp_path / "killed", 0
    while deaths < 5:
        process = subprocess.Popen(
            [*COMMAND, "segment", str(drawn[0]), "-o", str(killed), *settings],
            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            assert process.wait(moments.uniform(0.2, 0.7) * duration) == 0
        except subprocess.TimeoutExpired:
            deaths += 1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        else:  # it was faster than its death: it has to be right, and the next one starts anew
            same_results(clean / "drawn", killed / "drawn")
            shutil.rmtree(killed)
    assert wsiseg("segment", drawn[0], "-o", killed, *settings).returncode == 0
    same_results(clean / "drawn", killed / "drawn")
    assert not (killed / ".work").exists()
    again = wsiseg("segment", drawn[0], "-o", killed, *settings, "--json")
    assert json.loads(again.stdout)["tiles_computed"] == 0

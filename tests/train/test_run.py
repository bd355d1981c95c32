"""``wsiseg train`` from end to end: it learns, goes on exactly where it was killed, and refuses what it must."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

torch = pytest.importorskip("torch")

from wsiseg.core.raster import rasterize  # noqa: E402
from wsiseg.errors import EnvironmentFault, TrainingError, UsageError  # noqa: E402
from wsiseg.evaluate import evaluate  # noqa: E402
from wsiseg.models.registry import load_segmenter  # noqa: E402
from wsiseg.models.weightfile import load_weights  # noqa: E402
from wsiseg.run.events import Event, PatchesDone  # noqa: E402
from wsiseg.train import loop  # noqa: E402
from wsiseg.train.checkpoint import load_average  # noqa: E402
from wsiseg.train.journal import Journal, read_log  # noqa: E402
from wsiseg.train.loop import learning_rate  # noqa: E402
from wsiseg.train.run import TrainOptions, TrainResult, train_recipe  # noqa: E402
from wsiseg.train.settings import Optimise  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = TrainOptions(device="cpu", threads=1, workers=1, checkpoint_s=0.0)
SOURCE = {"kind": "folder", "data": "discs", "mpp": 0.5, "licence": "CC0-1.0"}
TABLES: dict[str, Any] = {
    "name": "tiny",
    "summary": "a tiny network for discs",
    "licence": "Apache-2.0",
    "seed": 3,
    "network": {"name": "unet", "widths": [4, 8]},
    "head": {"name": "offsets"},
    "data": {
        "mpp": 0.5,
        "side": 64,
        "train": [{**SOURCE, "select": {"part": "training", "every": 4}}],
        "validation": [{**SOURCE, "select": {"part": "validation", "every": 4}}],
    },
    "augment": {"rotate": 0.3, "jpeg": 0.3, "transport": 0.5},
    "optimise": {"steps": 9, "batch": 2, "crop": 32, "precision": "fp32", "warmup": 3},
    "stop": {"every": 3},
}


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of dark discs, with labels."""
    folder = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for n in range(12):
        labels = np.zeros((64, 64), dtype=np.uint8)
        for k, (row, column) in enumerate([(14, 15), (14, 46), (45, 12), (44, 44)]):
            centre = np.array([row, column]) + rng.integers(-4, 5, 2)
            labels[np.hypot(y - centre[0], x - centre[1]) < rng.uniform(5, 9)] = k + 1
        image = np.where(labels[..., None] > 0, (90, 60, 130), (230, 190, 215)) + rng.normal(0, 6, (64, 64, 3))
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / "images" / f"{n:02}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{n:02}.png")
    return folder


def changed(**sections: Any) -> dict[str, Any]:
    tables = copy.deepcopy(TABLES)
    for name, value in sections.items():
        tables[name] = {**tables.get(name, {}), **value} if isinstance(value, dict) else value
    return tables


def run(tables: dict[str, Any], discs: Path, out: Path, options: TrainOptions = OPTIONS) -> TrainResult:
    return train_recipe(tables, "the text", {"discs": discs}, out, options)


def weights(path: Path) -> dict[str, Any]:
    return load_average(path)[0]


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def toml(tables: dict[str, Any]) -> str:
    """Recipes hold tables, arrays of tables and values that JSON writes as TOML does."""
    lines: list[str] = []

    def write(values: dict[str, Any], path: str) -> None:
        nested = {k: v for k, v in values.items() if isinstance(v, dict)}
        arrays = {k: v for k, v in values.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
        lines.extend(f"{k} = {json.dumps(v)}" for k, v in values.items() if k not in nested and k not in arrays)
        for name, value in nested.items():
            lines.append(f"[{path}{name}]")
            write(value, f"{path}{name}.")
        for name, items in arrays.items():
            for item in items:
                lines.append(f"[[{path}{name}]]")
                write(item, f"{path}{name}.")

    write(tables, "")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def whole(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole")
    run(TABLES, discs, out)
    return out


def test_it_writes_what_it_promises(whole: Path, discs: Path) -> None:
    rows = read_log(whole)
    assert [row["step"] for row in rows if "validation" in row] == [2, 5, 8]
    assert set(rows[0]["loss"]) == {"cross_entropy", "dice", "offset", "depth", "total"}
    assert (whole / "log.csv").read_text().startswith("step,")
    for name in ("curves.png", "samples/step-0000009.png"):
        assert Image.open(whole / name).size[0] > 100
    page = (whole / "tiny.md").read_text()
    assert "CC0-1.0" in page
    assert "9 annotated images" in page
    assert "the text" in page
    assert "seed 3" in page
    card = torch.load(whole / "checkpoint.pt", weights_only=True)["card"]
    assert card["licence"] == "Apache-2.0"
    assert any("CC0-1.0" in line for line in card["data"])
    kept = torch.load(whole / "kept.pt", weights_only=True)["card"]
    assert set(kept["scores"]["validation"]) == {"aji", "dice", "pq", "f1", "precision", "recall"}


def test_a_finished_run_computes_nothing(whole: Path, discs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_run", None)
    before = (whole / "tiny.safetensors").read_bytes()
    result = run(TABLES, discs, whole)
    assert result.step == 9
    assert (whole / "tiny.safetensors").read_bytes() == before


def test_it_learns_and_segments(discs: Path, tmp_path: Path) -> None:
    optimise = {"steps": 150, "batch": 4, "crop": 48, "rate": 1e-2, "average": 0.9, "warmup": 10}
    result = run(changed(optimise=optimise, stop={"every": 75}, margin_px=20), discs, tmp_path)
    assert result.scores["validation"]["aji"] > 0.5
    segmenter = load_segmenter(str(result.weights), device="cpu", precision="fp32")
    assert segmenter.margin_px == 20
    image = np.asarray(Image.open(discs / "images" / "02.png"))
    (nuclei,) = segmenter.segment([image], {})
    found = rasterize(nuclei, np.arange(1, len(nuclei) + 1), (64, 64))
    assert evaluate(np.asarray(Image.open(discs / "labels" / "02.png")), found).aji > 0.5


@pytest.mark.parametrize("after", [1, 4, 6])
def test_stopped_and_resumed_is_as_if_nothing_had_happened(
    discs: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    steps, step = [], loop.take_step

    def stops(*arguments: Any) -> dict[str, Any]:
        if len(steps) == after:
            raise KeyboardInterrupt
        steps.append(arguments[-1])
        return step(*arguments)

    monkeypatch.setattr(loop, "take_step", stops)
    with pytest.raises(KeyboardInterrupt):
        run(TABLES, discs, tmp_path)
    monkeypatch.setattr(loop, "take_step", step)
    run(TABLES, discs, tmp_path)
    for name in ("checkpoint.pt", "kept.pt"):
        assert same(weights(whole / name), weights(tmp_path / name)), name
    assert (whole / "tiny.safetensors").read_bytes() == (tmp_path / "tiny.safetensors").read_bytes()
    drop = [{k: v for k, v in row.items() if k != "s"} for row in read_log(whole)]
    assert [{k: v for k, v in row.items() if k != "s"} for row in read_log(tmp_path)] == drop


def start(tables: dict[str, Any], discs: Path, out: Path) -> subprocess.Popen[str]:
    recipe = out.parent / "recipe.toml"
    recipe.write_text(toml(tables))
    words = ["train", str(recipe), "--data", f"discs={discs}", "-o", str(out), "--device", "cpu", "--threads", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", "wsiseg_cli", *words, "--workers", "1"],
        stderr=subprocess.PIPE,
        text=True,
        # A test run that was started in the background passes on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until ``path`` is there, for a minute at most."""
    for _ in range(1200):
        if path.exists():
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_weights(discs: Path, tmp_path: Path) -> None:
    tables = changed(optimise={"steps": 60}, stop={"every": 20})
    reference = start(tables, discs, tmp_path / "reference")
    assert reference.wait(300) == 0
    for n, (awaited, delay) in enumerate([("run.json", 0.0), ("log.jsonl", 0.02), ("checkpoint.pt", 0.1)]):
        out = tmp_path / f"killed-{n}"
        killed = start(tables, discs, out)
        wait_for(out / awaited, killed)
        time.sleep(delay)
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
        assert start(tables, discs, out).wait(300) == 0
        assert same(weights(tmp_path / "reference" / "checkpoint.pt"), weights(out / "checkpoint.pt"))
        assert (out / "tiny.safetensors").read_bytes() == (tmp_path / "reference" / "tiny.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_a_checkpoint_and_a_hint(discs: Path, tmp_path: Path, number: int, code: int) -> None:
    tables = changed(optimise={"steps": 100_000}, stop={"every": 50_000})
    process = start(tables, discs, tmp_path / "out")
    wait_for(tmp_path / "out" / "log.jsonl", process)
    time.sleep(1)
    os.kill(process.pid, number)
    assert process.wait(60) == code
    assert process.stderr is not None
    assert "To go on" in process.stderr.read()
    step = load_average(tmp_path / "out" / "checkpoint.pt")[1].step
    assert 0 < step < 100_000


def test_another_recipe_or_other_data_are_refused(whole: Path, discs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"another recipe .optimise.rate was None, is 0.01"):
        run(changed(optimise={"rate": 1e-2}), discs, whole)
    other = tmp_path / "discs"
    for kind in ("images", "labels"):
        (other / kind).mkdir(parents=True)
        for path in sorted((discs / kind).iterdir())[:8]:
            (other / kind / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match="another data"):
        run(TABLES, other, whole)


def test_a_damaged_checkpoint_is_said(discs: Path, tmp_path: Path) -> None:
    run(changed(optimise={"steps": 3}), discs, tmp_path)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(EnvironmentFault, match=r"cannot be read .* Remove it to train from the start"):
        run(changed(optimise={"steps": 3}), discs, tmp_path)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = loop.loss_terms
    calls = []

    def diverges(*arguments: Any) -> Any:
        calls.append(1)
        found = terms(*arguments)
        return {name: value * float("nan") for name, value in found.items()} if len(calls) > 5 else found

    monkeypatch.setattr(loop, "loss_terms", diverges)
    with pytest.raises(TrainingError, match=r"step 5: .* is not finite .*lower optimise.rate"):
        run(TABLES, discs, tmp_path)
    state, progress = load_average(tmp_path / "checkpoint.pt")
    assert progress.step == 5
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


def test_it_stops_early_and_keeps_the_best(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ajis = iter([0.3, 0.5, 0.4, 0.5, 0.1, 0.9])
    monkeypatch.setattr(loop, "validate", lambda *_: {"aji": next(ajis)})
    tables = changed(optimise={"steps": 60}, stop={"every": 2, "patience": 3})
    result = run(tables, discs, tmp_path)
    assert (result.step, result.best_step) == (10, 4)
    assert result.scores == {"validation": {"aji": 0.5}}
    assert load_average(tmp_path / "kept.pt")[1].step == 4


def test_the_last_weights_can_be_kept(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ajis = iter([0.3, 0.5, 0.4])
    monkeypatch.setattr(loop, "validate", lambda *_: {"aji": next(ajis)})
    result = run(changed(stop={"keep": "last"}), discs, tmp_path)
    assert result.best_step == 9
    assert result.scores == {"validation": {"aji": 0.4}}
    assert same(weights(tmp_path / "kept.pt"), weights(tmp_path / "checkpoint.pt"))


def test_epochs_are_steps_by_the_patches(discs: Path, tmp_path: Path) -> None:
    optimise = {**TABLES["optimise"], "epochs": 1.5}
    del optimise["steps"]
    tables = {**TABLES, "optimise": optimise}
    assert run(tables, discs, tmp_path).step == 7  # 1.5 · 9 / 2


def test_fine_tuning_starts_from_weights(discs: Path, whole: Path, tmp_path: Path) -> None:
    tables = changed(start={"weights": "before"}, optimise={"rate": 1e-12, "weight_decay": 0.0, "average": 0.0})
    data = {"discs": discs, "before": whole / "tiny.safetensors"}
    result = train_recipe(tables, "", data, tmp_path, OPTIONS)
    old, new = (load_segmenter(str(p), device="cpu", precision="fp32") for p in (data["before"], result.weights))
    image = np.asarray(Image.open(discs / "images" / "02.png"))
    # Batch normalisation keeps on averaging what it sees; the weights themselves hardly move.
    learned = [dict(torch.load(tmp_path / "kept.pt", weights_only=True)["average"])]
    assert old.segment([image], {}) is not None
    assert new.segment([image], {}) is not None
    before = weights(whole / "kept.pt")
    for name, value in learned[0].items():
        if "norm" not in name:
            assert torch.allclose(value, before[name], atol=2e-3), name


def test_a_part_of_the_weights_before_can_be_kept(discs: Path, whole: Path, tmp_path: Path) -> None:
    tables = changed(start={"weights": "before", "keep": 0.25})
    data = {"discs": discs, "before": whole / "tiny.safetensors"}
    result = train_recipe(tables, "", data, tmp_path, OPTIONS)
    before, learned = load_weights(data["before"]).state, weights(tmp_path / "kept.pt")
    for name, value in load_weights(result.weights).state.items():
        if value.is_floating_point():
            expected = 0.25 * before[name].float() + 0.75 * learned[name]
            torch.testing.assert_close(value.float(), expected, atol=2e-3, rtol=2e-3)
    assert not torch.allclose(before["head.weight"].float(), learned["head.weight"], atol=1e-3)
    assert result.scores["blended"] != result.scores["validation"]


@pytest.mark.parametrize(
    "sections", [{"start": {"keep": 0.5}}, {"start": {"weights": "b", "keep": 0.5}, "rounds": {"steps": 2}}]
)
def test_nothing_to_keep_is_refused(discs: Path, tmp_path: Path, sections: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="keep"):
        train_recipe(changed(**sections), "", {"discs": discs}, tmp_path, OPTIONS)


ROUNDS = {"count": 2, "labelled": 0.5, "validation": 0.2, "steps": 4, "rate": 1e-3, "sure": 0.0}


@pytest.mark.parametrize("soft", [True, False])
def test_rounds_train_students_on_what_their_teacher_labels(discs: Path, tmp_path: Path, soft: bool) -> None:
    unlabelled = [{"kind": "images", "data": "discs_images", "mpp": 0.5}]
    tables = changed(rounds={**ROUNDS, "soft": soft, "unlabelled": unlabelled})
    data = {"discs": discs, "discs_images": discs / "images"}
    events: list[Event] = []
    result = train_recipe(tables, "", data, tmp_path, OPTIONS, events.append)
    names = ["validation, teacher", "validation, student of round 1", "validation, student of round 2"]
    assert list(result.scores) == names
    assert json.loads((tmp_path / "rounds.json").read_text()).keys() == set(names)
    assert names[2] in (tmp_path / "tiny.md").read_text()
    # 9 patches: 4 labelled, 2 for validation, 3 unlabelled; and 12 images.
    assert [e.total for e in events if isinstance(e, PatchesDone) and e.name == "labels"][-1] == 15
    labels = np.load(tmp_path / "round-1" / "labels" / "1" / "known.npy")
    assert labels.shape[0] == 12
    assert (labels == 1).all() == soft


def test_rounds_go_on_where_they_were_stopped(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = changed(rounds=ROUNDS, optimise={"steps": 4})
    run(tables, discs, tmp_path / "whole")
    step = loop.take_step
    for limit in (2, 3, 5, 4):  # within the teacher, the first and the second student
        taken = []

        def stops(*arguments: Any, taken: list[int] = taken, limit: int = limit) -> dict[str, Any]:
            if len(taken) == limit:
                raise KeyboardInterrupt
            taken.append(1)
            return step(*arguments)

        monkeypatch.setattr(loop, "take_step", stops)
        try:
            run(tables, discs, tmp_path / "stopped")
        except KeyboardInterrupt:
            continue
    monkeypatch.setattr(loop, "take_step", step)
    run(tables, discs, tmp_path / "stopped")
    for folder in ("teacher", "round-1", "round-2"):
        a, b = (weights(tmp_path / name / folder / "checkpoint.pt") for name in ("whole", "stopped"))
        assert same(a, b), folder
    whole, stopped = ((tmp_path / name / "tiny.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped


@pytest.mark.parametrize(
    ("head", "network", "extra"),
    [
        ("foreground", {"name": "joyce", "widths": [4, 8], "dropout": [0.1, 0.1]}, {"decoder": {"name": "otsu"}}),
        ("seeds", {"name": "hou", "widths": [4, 8], "depths": [1, 1]}, {"loss": {"border_px": 4}}),
        ("star", {"name": "unet", "widths": [4, 8]}, {}),
        ("hover", {"name": "unet", "widths": [4, 8]}, {"optimise": {"steps": 3, "schedule": "step"}}),
    ],
)
def test_every_head_trains_and_exports(
    discs: Path, tmp_path: Path, head: str, network: dict[str, Any], extra: dict[str, Any]
) -> None:
    tables = {**changed(**extra), "network": network, "head": {"name": head}}
    result = run(tables, discs, tmp_path)
    segmenter = load_segmenter(str(result.weights), device="cpu", precision="fp32")
    assert segmenter.describe()["head"] == head
    assert 0 <= result.scores["validation"]["aji"] <= 1


def test_dropout_is_the_same_after_a_stop(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = {"name": "joyce", "widths": [4, 8], "dropout": [0.5, 0.5]}
    tables = {**TABLES, "network": network, "head": {"name": "foreground"}}
    run(tables, discs, tmp_path / "whole")
    step = loop.take_step

    def stops(*arguments: Any) -> dict[str, Any]:
        if arguments[-1] == 4:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(loop, "take_step", stops)
    with pytest.raises(KeyboardInterrupt):
        run(tables, discs, tmp_path / "stopped")
    monkeypatch.setattr(loop, "take_step", step)
    run(tables, discs, tmp_path / "stopped")
    assert same(*(weights(tmp_path / name / "checkpoint.pt") for name in ("whole", "stopped")))


def test_learning_rates() -> None:
    cosine = Optimise(steps=500, rate=1.0, warmup=50)
    rates = [learning_rate(step, cosine) for step in range(500)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 1e-3
    assert (np.diff(rates[50:]) <= 0).all()
    constant = Optimise(steps=500, rate=1.0, warmup=0, schedule="constant")
    assert {learning_rate(step, constant) for step in range(500)} == {1.0}
    steps = Optimise(steps=100, rate=1.0, warmup=0, schedule="step", drops=(0.5, 0.75), drop=0.1)
    assert [learning_rate(s, steps) for s in (49, 50, 75)] == pytest.approx([1.0, 0.1, 0.01])


def test_the_journal_forgets_what_is_done_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0)
    for step in range(5):
        journal.write({"step": step, "loss": {"total": step / 2}})
    journal.close()
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 5, "lo')  # a kill
    Journal(tmp_path, 3).close()
    assert [row["step"] for row in read_log(tmp_path)] == [0, 1, 2]
    assert (tmp_path / "log.csv").read_text().splitlines() == ["step,loss/total", "0,0.0", "1,0.5", "2,1.0"]


def test_tensorboard_files_hold_the_scores(discs: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra [train] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(TABLES, discs, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("validation/aji")] == [2, 5, 8]
    assert events.Images("samples")


def test_the_command(discs: Path, tmp_path: Path) -> None:
    from wsiseg_cli.train import command

    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml(TABLES))
    words = [str(recipe), "--data", f"discs={discs}", "-o", str(tmp_path / "out"), "--set", "optimise.steps=3"]
    done = CliRunner().invoke(command, [*words, "--threads", "1", "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["step"] == 3
    listed = CliRunner().invoke(command, ["--list", "--json"], catch_exceptions=False)
    assert {row["name"] for row in json.loads(listed.stdout)} >= {"unet-0.5", "joyce"}
    shown = CliRunner().invoke(command, ["joyce", "--show"], catch_exceptions=False)
    assert 'kind = "snow"' in shown.stdout
    for wrong, message in (
        ([], "Missing argument 'RECIPE'"),
        ([str(recipe)], "Missing option '-o'"),
        ([str(recipe), "--data", "discs"], "expected NAME=PATH"),
        ([*words, "--data", f"discs={discs}"], "--data discs is given twice"),
    ):
        refused = CliRunner().invoke(command, wrong)
        assert refused.exit_code == 2
        assert message in refused.output

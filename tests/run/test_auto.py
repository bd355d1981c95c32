"""``--model auto``: a cohort may mix models, a slide never does, and what was picked once is gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from wsiseg.errors import UsageError
from wsiseg.run.events import Event, Note, Unchanged
from wsiseg.run.pipeline import segment_slides
from wsiseg.run.schedule import SerialExecutor
from wsiseg.testing import write_slide
from wsiseg.testing.runs import StopsAfter, same_results
from wsiseg.tiles import plan
from wsiseg.tiles.request import SegmentOptions

pytestmark = pytest.mark.usefixtures("one_thread")
NOTE = "--model auto takes "


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A slide of fine pixels and one of coarse."""
    folder = tmp_path_factory.mktemp("slides")
    for name, mpp in (("coarse", 0.5), ("fine", 0.25)):
        write_slide(folder / f"{name}.svs", width=320, height=320, mpp=mpp, seed=2)
    return sorted(folder.glob("*.svs"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has one, as far as the choice is concerned."""
    monkeypatch.setattr(plan, "device_kind", lambda *_: "cuda")


def run(
    slides: list[Path], out: Path, executor: SerialExecutor | None = None, model: str = "auto", **settings: bool
) -> tuple[dict[str, str], list[Event]]:
    """The models that the records name, by slide."""
    events: list[Event] = []
    options = SegmentOptions(model, tile=512, precision="fp32", **settings)
    result = segment_slides(slides, out, options, executor or SerialExecutor(), events.append)
    assert result.exit_code == 0
    return {record.id: record.settings.model.name for record in result.records}, events


def told(events: list[Event], name: str) -> list[str]:
    return [event.text for event in events if isinstance(event, Note) and event.name == name and NOTE in event.text]


def test_a_cohort_may_mix_and_says_so(slides: list[Path], tmp_path: Path, gpu: None) -> None:
    found, events = run(slides, tmp_path)
    assert found == {"coarse": "unet-0.5", "fine": "unet-0.25+unet-0.5"}
    for name, model in found.items():
        (note,) = told(events, name)
        assert note.startswith(f"{NOTE}{model}: ")
        assert json.loads((tmp_path / name / "slide.json").read_text())["notes"][0] == note


def test_the_wording_is_no_part_of_a_result(slides: list[Path], tmp_path: Path) -> None:
    """What auto takes is what the model's name gives: the same key, the same nuclei, and nothing to compute."""
    fine = slides[1:]
    assert run(fine, tmp_path)[0] == {"fine": "unet-0.5"}
    key = json.loads((tmp_path / "fine" / "slide.json").read_text())["key"]
    _, events = run(fine, tmp_path, model="unet-0.5")
    assert [event for event in events if isinstance(event, Unchanged)]
    run(fine, tmp_path / "named", model="unet-0.5")
    assert json.loads((tmp_path / "named" / "fine" / "slide.json").read_text())["key"] == key
    one, other = (folder / "fine" / "nuclei.parquet" for folder in (tmp_path, tmp_path / "named"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_finished_result_keeps_its_model(slides: list[Path], tmp_path: Path, overwrite: bool) -> None:
    fine = slides[1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "device_kind", lambda *_: "cuda")
        run(fine, tmp_path)
    found, events = run(fine, tmp_path, overwrite=overwrite)
    assert found == {"fine": "unet-0.25+unet-0.5"}
    assert [event for event in events if isinstance(event, Unchanged)]
    assert told(events, "fine") == [f"{NOTE}unet-0.25+unet-0.5: the slide has 0.25 µm a pixel, and a GPU computes."]


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_stopped_run_goes_on_with_the_model_that_was_picked(
    slides: list[Path], tmp_path: Path, tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = slides[1:]
    with monkeypatch.context() as patch:
        patch.setattr(plan, "device_kind", lambda *_: "cuda")
        run(fine, tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            run(fine, tmp_path / "stopped", StopsAfter(tasks))
    assert run(fine, tmp_path / "stopped")[0] == {"fine": "unet-0.25+unet-0.5"}
    same_results(tmp_path / "whole" / "fine", tmp_path / "stopped" / "fine")


def test_results_of_other_settings_are_still_refused(slides: list[Path], tmp_path: Path) -> None:
    run(slides[1:], tmp_path, model="classical")
    with pytest.raises(UsageError, match="holds results of other settings: model"):
        run(slides[1:], tmp_path)
    assert run(slides[1:], tmp_path, overwrite=True)[0] == {"fine": "unet-0.5"}

"""``wsiseg import`` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from wsiseg_cli.group import cli

from wsiseg.testing import write_slide
from wsiseg.testing.nucleifile import NucleiWriter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides a and b, and nuclei of a and of a slide that is not there."""
    folder = tmp_path_factory.mktemp("import")
    truth = write_slide(folder / "a.svs", width=768, height=768, layout="dense", seed=3)
    (folder / "b.svs").write_bytes((folder / "a.svs").read_bytes())
    for name in ("a", "other"):
        with NucleiWriter(folder / f"{name}.parquet", {}, {}) as writer:
            writer.write(truth.nuclei)
    return folder


def test_segmentations_find_their_slides(folder: Path, tmp_path: Path) -> None:
    words = ["import", folder / "a.parquet", folder / "other.parquet", "--slides", folder, "-o", tmp_path, "-w", 0]
    words += ["--seams", "256,1,1", "--offset", "-1,0.5"]
    first = CliRunner().invoke(cli, [str(word) for word in words])
    assert first.exit_code == 0, first.output
    assert "no slide for 1 of 2 segmentations: other" in first.stderr
    assert "1 slides: 1 complete" in first.output
    again = CliRunner().invoke(cli, [*(str(word) for word in words), "--json"])
    said = json.loads(again.stdout)
    assert (said["exit_code"], said["tiles_computed"]) == (0, 0)
    specification = said["slides"][0]["specification"]
    assert specification["imported_from"]["offset"] == [-1, 0.5]
    assert specification["imported"]["lines"] == {"pitch": 256, "x": 1, "y": 1}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "give --slide for one slide, or --slides"),
        (("--slide", "a.svs", "--slides", "."), "give --slide for one slide, or --slides"),
        (("--slide", "a.svs", "--scale", "2", "--input-mpp", "1"), "in two ways"),
        (("--slide", "a.svs", "--offset", "1"), "expected two numbers X,Y"),
        (("--slide", "a.svs", "--seams", "0"), "expected the side of the tiles"),
    ],
)
def test_a_wrong_request_says_what_was_expected(
    words: tuple[str, ...], says: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(cli, ["import", "a.parquet", "-o", "out", *words], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert not (folder / "out").exists()

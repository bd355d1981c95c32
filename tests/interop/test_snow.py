"""SNOW's layout: files that read back as they were, in the shapes of HoVer-Net's tile mode, and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy import io
from wsiseg_cli.synth import command

from wsiseg.errors import EnvironmentFault, UsageError
from wsiseg.evaluate.compare import evaluate_sets
from wsiseg.interop import snow
from wsiseg.run.events import Event, PatchesDone
from wsiseg.synth import export
from wsiseg.synth.dataset import Block, create_dataset, finish_dataset, open_dataset, write_block
from wsiseg.synth.export import export_snow

LABELS = np.array([[0, 0, 7, 7], [3, 3, 7, 7], [3, 0, 0, 0]], dtype=np.int32)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four patches; the third has no nucleus."""
    path = tmp_path / "patches.zarr"
    rng = np.random.default_rng(0)
    create_dataset(path, 4, (48, 48), 0.25, {"method": "test", "seed": 1, "textures": []})
    labels = np.zeros((4, 48, 48), dtype=np.int32)
    labels[:, 4:14, 5:20] = 1
    labels[:, 14:30, 5:20] = 2
    labels[2] = 0
    images = rng.integers(0, 256, (4, 48, 48, 3)).astype(np.uint8)
    write_block(path, 0, Block(images, labels, np.ones(4, dtype=np.float32), np.zeros(4, dtype=np.int32)))
    finish_dataset(path)
    return path


def test_a_mask_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "seed0000.mat"
    snow.write_mask(path, LABELS)
    held = io.loadmat(path)
    assert np.array_equal(held["inst_map"], LABELS)
    assert held["inst_map"].dtype == np.int32
    assert held["inst_uid"].tolist() == [[3], [7]]
    assert held["inst_centroid"] == pytest.approx(np.array([[1 / 3, 4 / 3], [2.5, 0.5]]))  # x, y of pixel centres
    mask = snow.read_mask(path)
    assert np.array_equal(mask.labels, LABELS)
    assert mask.uids.tolist() == [3, 7]
    assert mask.centroids == pytest.approx(held["inst_centroid"])
    assert mask.types is None


def test_a_mask_without_nuclei(tmp_path: Path) -> None:
    snow.write_mask(tmp_path / "a.mat", np.zeros((5, 6), dtype=np.int32))
    mask = snow.read_mask(tmp_path / "a.mat")
    assert mask.labels.shape == (5, 6)
    assert mask.uids.shape == (0,)
    assert mask.centroids.shape == (0, 2)


def test_the_same_labels_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snow.write_mask(tmp_path / "a.mat", LABELS)
    monkeypatch.setattr("time.asctime", lambda *_: "another day")
    snow.write_mask(tmp_path / "b.mat", LABELS)
    assert (tmp_path / "a.mat").read_bytes() == (tmp_path / "b.mat").read_bytes()


def test_masks_of_others(tmp_path: Path) -> None:
    """With types and raw maps, in another order, or with nothing but the map."""
    path = tmp_path / "a.mat"
    full = {
        "inst_map": LABELS.astype(np.uint16),
        "inst_uid": np.array([[7], [3]]),
        "inst_type": np.array([[2], [1]]),
        "inst_centroid": np.array([[2.5, 0.5], [0.3, 1.3]]),
        "raw_map": np.zeros((3, 4, 3), dtype=np.float32),
    }
    io.savemat(path, full)
    mask = snow.read_mask(path)
    assert mask.uids.tolist() == [7, 3]
    assert mask.types is not None
    assert mask.types.tolist() == [2, 1]
    assert mask.centroids[0].tolist() == [2.5, 0.5]
    io.savemat(path, {"inst_map": LABELS.astype(float), "inst_uid": np.array([[7], [3]])})
    mask = snow.read_mask(path)
    assert mask.centroids == pytest.approx(np.array([[2.5, 0.5], [1 / 3, 4 / 3]]))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"other": LABELS}, "holds other; expected the variable inst_map"),
    ({"inst_map": LABELS + 0.5}, "expected whole numbers"),
    ({"inst_map": -LABELS}, "negative label -7"),
    ({"inst_map": np.zeros((2, 3, 4))}, "expected one plane"),
    ({"inst_map": np.array([["a", "b"]], dtype=object)}, "of type cell; expected numbers"),
    ({"inst_map": {"nested": 1}}, "of type struct; expected numbers"),
    ({"inst_map": LABELS, "inst_uid": [[3], [8]]}, "inst_uid has 2 rows, which are not"),
    ({"inst_map": LABELS, "inst_uid": [[3]]}, "inst_uid has 1 rows, which are not"),
    ({"inst_map": LABELS, "inst_uid": [["a"], ["b"]]}, "inst_uid is of type"),
    ({"inst_map": LABELS, "inst_centroid": [[1.0, 2.0]]}, "inst_centroid is float64"),
    ({"inst_map": LABELS, "inst_type": [[1]]}, "inst_type has 1 rows for 2 instances"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    io.savemat(tmp_path / "a.mat", content)
    with pytest.raises(UsageError, match=rf"a\.mat.*(?:{message})"):
        snow.read_mask(tmp_path / "a.mat")


def test_files_that_are_no_masks(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + bytes(8) + b"\x00\x02IM"
    path.write_bytes(head + bytes(400) + b"\x89HDF\r\n\x1a\n" + bytes(600))
    with pytest.raises(UsageError, match=r"MATLAB 7\.3; expected version 7 or older"):
        snow.read_mask(path)
    path.write_bytes(b"no matrix")
    with pytest.raises(UsageError, match="cannot be read as a label image"):
        snow.read_mask(path)
    snow.write_mask(path, LABELS)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UsageError, match="cannot be read as a label image"):
        snow.read_mask(path)
    with pytest.raises(UsageError, match=r"none\.mat cannot be read: No such file"):
        snow.read_mask(tmp_path / "none.mat")


def test_where_the_masks_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected SNOW's layout"):
        snow.mask_folder(tmp_path)
    for name in ("mat", "Mask/mat", "Mask"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        snow.write_mask(tmp_path / name / "seed0000.mat", LABELS)
        assert snow.mask_folder(tmp_path) == name


def test_a_dataset_as_tiles(dataset: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    out = tmp_path / "tiles"
    record = export_snow(dataset, out, overlay=True, on_event=seen.append)
    assert record == {"status": "complete", "path": str(out), "tiles": 4}
    assert seen == [PatchesDone(out.name, 4, 4)]
    source = open_dataset(dataset)
    names = [f"seed{n:04d}" for n in range(4)]
    found = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    folders = (("Image", "png"), ("Mask", "mat"), ("Overlay", "png"))
    assert found == {"dataset.json", *(f"{f}/{name}.{s}" for name in names for f, s in folders)}
    for n, name in enumerate(names):
        image, labels = np.asarray(source.image[n]), np.asarray(source.instances[n])
        assert np.array_equal(np.array(Image.open(out / "Image" / f"{name}.png")), image)
        mask = snow.read_mask(out / "Mask" / f"{name}.mat")
        assert np.array_equal(mask.labels, labels)
        assert mask.uids.tolist() == ([1, 2] if n != 2 else [])
        drawn = np.array(Image.open(out / "Overlay" / f"{name}.png"))
        changed = (drawn != image).any(axis=2)
        assert changed.any() == (n != 2)
        assert (labels[changed] > 0).all()
    assert json.loads((out / "dataset.json").read_text())["mpp"] == 0.25
    # As wsiseg itself reads the layout.
    assert evaluate_sets(out / "Mask", out / "Mask").summary["aji"].mean == 1
    assert export_snow(dataset, out, overlay=True)["status"] == "unchanged"
    with pytest.raises(UsageError, match="is in the way"):
        export_snow(dataset, out)


def test_a_stopped_export_goes_on(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, whole = tmp_path / "tiles", tmp_path / "whole"
    export_snow(dataset, whole)
    written: list[str] = []
    write = snow.write_mask

    def stop_at_the_third(path: Path, labels: np.ndarray) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, labels)

    monkeypatch.setattr(export.snow, "write_mask", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        export_snow(dataset, out)
    assert not out.exists()

    def counted(path: Path, labels: np.ndarray) -> None:
        written.append(path.name)
        write(path, labels)

    monkeypatch.setattr(export.snow, "write_mask", counted)
    export_snow(dataset, out)
    assert written == [f"seed000{n}.mat" for n in range(4)]  # none twice
    for path in whole.rglob("*"):
        assert path.is_dir() or path.read_bytes() == (out / path.relative_to(whole)).read_bytes()


def test_another_dataset_does_not_go_on_with_the_first_ones_tiles(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / ".tiles.begun"
    (begun / "Mask").mkdir(parents=True)
    (begun / "Mask" / "seed0000.mat").write_text("of something else")
    export_snow(dataset, tmp_path / "tiles")
    assert snow.read_mask(tmp_path / "tiles" / "Mask" / "seed0000.mat").uids.tolist() == [1, 2]
    assert not begun.exists()


def test_exports_that_cannot_be(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no dataset"):
        export_snow(tmp_path, tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is in the way"):
        export_snow(dataset, tmp_path / "file")
    with pytest.raises(EnvironmentFault, match="a file is in the way"):
        export_snow(dataset, tmp_path / "file" / "tiles")


def test_the_command(dataset: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["export", str(dataset), "-o", str(tmp_path / "tiles"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["tiles"] == 4
    assert (tmp_path / "tiles" / "Mask" / "seed0003.mat").exists()

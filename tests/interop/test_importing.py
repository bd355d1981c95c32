"""What is to be imported: found, paired with slides, read from archives; laid on a slide, sorted by tile."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import shapely

from wsiseg.core.geometry import Box
from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import UsageError
from wsiseg.interop import quiptables
from wsiseg.interop.mending import clip, mend
from wsiseg.interop.pairing import find_segmentations, of_one, pair
from wsiseg.interop.placing import Placement
from wsiseg.interop.quip import HEADER
from wsiseg.interop.segmentation import Segmentation, describe_outlines, iter_outlines
from wsiseg.interop.spill import append_outlines, read_outlines


def table(x: int) -> bytes:
    return HEADER + f"100,400,[{x}.0:100.0:{x + 10}.0:100.0:{x + 10}.0:110.0]\n0,0,[1.0:2.0]\n".encode()


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_600_000_000
            file.addfile(info, io.BytesIO(content))
    return path


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_formats_and_names_are_told_by_names(tmp_path: Path) -> None:
    for name in (
        "a.svs/1_1_9_9_0.25_1-features.csv",
        "b.geojson",
        "c.1-of-2.geojson.gz",
        "c.2-of-2.geojson.gz",
        "d.tif",
        "run/e/nuclei.parquet",
        "run/e/patches.parquet",
        "run/cohort.parquet",
        "run/exports/e.geojson",
        ".hidden.geojson",
        "notes.txt",
    ):
        touch(tmp_path / name)
    found = {one.name: (one.format, len(one.paths)) for one in find_segmentations([tmp_path])}
    assert found == {
        "a.svs": ("quip-csv", 1), "b": ("geojson", 1), "c": ("geojson", 2), "d": ("labels", 1),
        "e": ("geoparquet", 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "says"), [("a.txt", "no segmentation by its name"), ("none.geojson", "no such file"), ("", "no segm")]
)
def test_what_is_no_segmentation_is_refused(name: str, says: str, tmp_path: Path) -> None:
    touch(tmp_path / "a.txt")
    with pytest.raises(UsageError, match=says):
        find_segmentations([tmp_path / name])


def test_one_slide_in_two_formats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Expected one of them"):
        find_segmentations([touch(tmp_path / "a.geojson"), touch(tmp_path / "a.parquet")])


def test_names_pair_with_slides_with_and_without_suffix() -> None:
    names = ("TCGA-A1.svs", "b c", "d.e", "unknown")
    segmentations = [Segmentation("geojson", name, (Path(name),)) for name in names]
    slides = [Path("in/TCGA-A1.svs"), Path("in/b c.tif"), Path("in/d.e.svs"), Path("in/none.svs")]
    assert {path.name: one.name for path, one in pair(segmentations, slides).items()} == {
        "TCGA-A1.svs": "TCGA-A1.svs", "b c.tif": "b c", "d.e.svs": "d.e"
    }  # fmt: skip
    # What wsiseg exports has the slide's name as it is among the results.
    assert pair([Segmentation("geojson", "b_c", ())], slides)[slides[1]].name == "b_c"
    for stranger in (segmentations[3], Segmentation("geojson", "TCGA-A1.2", ())):
        with pytest.raises(UsageError, match="has a slide"):
            pair([stranger], slides)
    with pytest.raises(UsageError, match="could be of"):
        pair(segmentations[2:3], [Path("x/d.e.svs"), Path("y/d.e.tif")])
    assert of_one(segmentations[3:], slides[0])[slides[0]].name == "unknown"
    with pytest.raises(UsageError, match="has a slide"):
        of_one(segmentations[1:], slides[0])


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_tables_are_read_from_archives_of_several_slides(suffix: str, tmp_path: Path) -> None:
    path = archive(
        tmp_path / f"luad.{suffix}",
        {
            "luad_polygon/a.svs/4001_1_4000_900_0.25_1-features.csv": table(4100),
            "luad_polygon/b.svs/1_1_4000_4000_0.25_1-features.csv": table(50),
            "luad_polygon/a.svs/1_1_4000_4000_0.25_1-features.csv": table(100),
            "luad_polygon/a.svs/1_1_4000_4000_0.25_1-algmeta.json": b'{"image_width": 8001, "image_height": 901}',
            "luad_polygon/README": b"text",
        },
    )
    first, second = find_segmentations([path])
    assert (first.name, second.name) == ("a.svs", "b.svs")
    passed: Counter[str] = Counter()
    nuclei = Nuclei.concatenate(list(iter_outlines(first, passed)))
    assert sorted(nuclei.bounds()[:, 0]) == [100, 4100]
    assert passed == {"row of fewer than three corners": 2}
    contents = describe_outlines(first)
    assert contents.lines is not None
    assert (contents.lines.pitch, contents.lines.x, contents.lines.y) == (4000, 1, 1)
    assert (contents.size, contents.mpp, contents.notes) == ((8001, 901), 0.25, ())


def test_an_archive_that_is_cut_off_or_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = HEADER + b"1,1,[1.0:2.0:3.0:2.0:3.0:4.0]\n" * 20_000
    path = archive(tmp_path / "a.svs.tar.gz", {"1_1_4000_4000_0.25_1-features.csv": content})
    (one,) = find_segmentations([path])
    assert one.name == "a.svs"  # its members lie in no folder
    with monkeypatch.context() as patch:
        patch.setattr(quiptables, "_MOST_BYTES", 1000)
        with pytest.raises(UsageError, match="Expected the nuclei of one tile"):
            list(iter_outlines(one, Counter()))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(UsageError, match="cannot be read as a tar archive"):
        list(iter_outlines(one, Counter()))


def test_links_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        info = tarfile.TarInfo("a.svs/1_1_4000_4000_0.25_1-features.csv")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(UsageError, match="without QuIP tables"):
        find_segmentations([path])


def ring(points: list[tuple[float, float]]) -> Nuclei:
    return Nuclei(np.array(points, dtype=np.float64), np.array([0, len(points)]), {"score": np.array([0.5])})


SQUARE = ring([(0, 0), (4, 0), (4, 4), (0, 4)])
EIGHT = ring([(10, 0), (16, 6), (16, 0), (10, 4)])
LINE = ring([(20, 0), (22, 2), (24, 4)])
POINT = ring([(30, 0)])


def test_crossings_are_mended_and_what_has_no_area_left_out() -> None:
    given = Nuclei.concatenate([SQUARE, LINE, EIGHT, POINT, SQUARE.translate(40, 0)])
    done = mend(given.with_columns(score=np.arange(5.0)))
    assert (done.changed, done.out) == (1, 2)
    assert done.nuclei.columns["score"].tolist() == [0, 2, 4]
    assert shapely.is_valid(done.nuclei.geometry()).all()
    assert mend(SQUARE).nuclei is SQUARE
    assert len(mend(Nuclei.empty()).nuclei) == 0


def test_what_reaches_beyond_an_edge_is_cut_there() -> None:
    done = clip(Nuclei.concatenate([SQUARE, SQUARE.translate(-2, 1), SQUARE.translate(-9, 0)]), Box(0, 0, 5, 5))
    assert (done.changed, done.out) == (1, 1)
    assert done.nuclei.areas().tolist() == [16, 8]


def test_coordinates_are_scaled_then_moved() -> None:
    counts: Counter[str] = Counter()
    placed = Placement(2.0, (10.0, 20.0), Box(0, 0, 100, 100)).place(SQUARE, counts)
    assert placed.bounds().tolist() == [[10, 20, 18, 28]]
    assert +counts == {"read": 1}


def test_pieces_of_a_tile_come_back_in_their_order(tmp_path: Path) -> None:
    pieces = [SQUARE, Nuclei.concatenate([EIGHT, LINE]), SQUARE.translate(1, 1)]
    for piece in pieces:
        append_outlines(tmp_path / "0", piece)
    whole, back = Nuclei.concatenate(pieces), read_outlines(tmp_path / "0")
    np.testing.assert_array_equal(back.vertices, whole.vertices)
    np.testing.assert_array_equal(back.offsets, whole.offsets)
    np.testing.assert_array_equal(back.columns["score"], whole.columns["score"])

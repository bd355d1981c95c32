"""Grades, patches and the automatic check: arithmetic exactly, verdicts on drawn and annotated tissue."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from wsiseg.core.geometry import Box, Scale
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.typed import as_plain, as_typed
from wsiseg.errors import UsageError
from wsiseg.qc.agreement import FEATURES, REASONS, Constants, Limits, calibrate, measure_patch, reason, sharpness
from wsiseg.qc.check import assess_patches, calibrate_slide
from wsiseg.qc.grade import grade_slide
from wsiseg.qc.patches import place_patches, plan_patches, sample_patches
from wsiseg.qc.rubric import GRADES, NOT_ASSESSED, Rubric, clopper_pearson, expected_grade, grade_of
from wsiseg.results.nuclei import read_nuclei
from wsiseg.results.record import GradeRecord, Tiles
from wsiseg.slide import Slide, open_slide
from wsiseg.testing import Truth, write_slide
from wsiseg.testing.nucleifile import NucleiWriter
from wsiseg.tissue import Tissue, find_tissue, make_tissue

Labels = npt.NDArray[np.int32]
Annotated = Callable[[str], tuple[npt.NDArray[np.uint8], Labels]]

# --- the rubric -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "total", "grade"),
    [
        (0, 15, "Best"),
        (0, 1, "Best"),
        (1, 15, "Good"),
        (2, 15, "Adequate"),
        (3, 15, "Problematic"),
        (4, 15, "Unacceptable"),
        (15, 15, "Unacceptable"),
        (1, 1, "Unacceptable"),
        (1, 14, "Adequate"),
        (1, 1_000_000, "Good"),
        (10, 150, "Good"),
        (11, 150, "Adequate"),
        (20, 150, "Adequate"),
        (30, 150, "Problematic"),
        (31, 150, "Unacceptable"),
        (7, 105, "Good"),  # exactly 1/15 where floats are not
        (21, 105, "Problematic"),
    ],
)
def test_grades(bad: int, total: int, grade: str) -> None:
    assert grade_of(bad, total).grade == grade


def test_limits_are_exact_rationals() -> None:
    rubric = Rubric()
    for total in range(1, 2000):
        for fifteenths, name in ((1, "Good"), (2, "Adequate"), (3, "Problematic")):
            at = fifteenths * total // 15  # the largest count that is not above the limit
            assert GRADES.index(rubric.name(Fraction(at, total))) <= GRADES.index(name)
            assert GRADES.index(rubric.name(Fraction(at + 1, total))) > GRADES.index(name)


@pytest.mark.parametrize(("bad", "low", "high"), [(0, 0.0, 21.8), (1, 0.2, 31.9), (2, 1.7, 40.5), (3, 4.3, 48.1)])
def test_exact_intervals_of_fifteen(bad: int, low: float, high: float) -> None:
    assert [round(100 * side, 1) for side in clopper_pearson(bad, 15)] == [low, high]


def test_intervals_at_the_ends_and_sample_sizes() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert clopper_pearson(15, 15)[1] == 1.0
    # No bad patch rules out more than 1/15, one-sided at 95%, from 44 patches on, and more than 20% from 14.
    assert clopper_pearson(0, 44, 0.90)[1] < 1 / 15 < clopper_pearson(0, 43, 0.90)[1]
    assert clopper_pearson(0, 14, 0.90)[1] < 0.20 < clopper_pearson(0, 13, 0.90)[1]


def test_grades_that_the_interval_allows() -> None:
    grade = grade_of(1, 15)
    assert (grade.grade_low, grade.grade_high) == ("Good", "Unacceptable")
    assert grade_of(0, 15).grade_low == "Best"
    assert (grade_of(0, 1000).grade_low, grade_of(0, 1000).grade_high) == ("Best", "Good")


def test_a_failure_of_the_slide_outweighs_its_patches() -> None:
    grade = grade_of(0, 100, "2 of 3 tiles failed")
    assert (grade.grade, grade.grade_low, grade.grade_high) == ("Unacceptable",) * 3
    assert grade.fraction == 0.0
    assert grade.failure == "2 of 3 tiles failed"
    assert grade_of(0, 0).failure == "no patches"
    assert grade_of(0, 0).fraction is None


def test_record() -> None:
    record = grade_of(1, 20, reasons={"blurred": 1}, check="x 1").record()
    assert as_typed(json.loads(json.dumps(as_plain(record))), GradeRecord) == record
    assert (record.kind, record.fraction, record.reasons) == ("automatic", 0.05, {"blurred": 1})
    assert (record.check, record.confidence, record.rubric and record.rubric["good"]) == ("x 1", 0.95, "1/15")
    assert record.interval == pytest.approx([0.001, 0.249], abs=1e-3)


def test_limits_of_ones_own() -> None:
    strict = Rubric(Fraction(1, 100), Fraction(2, 100), Fraction(3, 100))
    assert grade_of(2, 100, rubric=strict).grade == "Adequate"
    with pytest.raises(UsageError, match="ascending"):
        Rubric(good=Fraction(1, 5), adequate=Fraction(1, 6))
    with pytest.raises(ValueError, match="3 bad patches of 2"):
        grade_of(3, 2)


# --- expected shares --------------------------------------------------------------------------------------------


def test_an_expected_share_has_the_grade_of_as_many_patches_in_fifteen() -> None:
    for share, name in (
        (0.03, "Best"),
        (0.05, "Good"),
        (0.1, "Adequate"),
        (0.19, "Problematic"),
        (0.3, "Unacceptable"),
    ):
        grade = expected_grade(np.full(9000, share), 9000, 0.0)
        assert (grade.grade, grade.assessed) == (name, True)
        assert grade.fraction == pytest.approx(share)
        assert grade.interval[0] < share < grade.interval[1]
        assert bool(grade.words) == (name != "Best")


def test_wide_intervals_are_said() -> None:
    wide = expected_grade(np.full(16, 0.12), 16, 0.8)
    assert "could be Best to Unacceptable" in wide.words
    assert "could be" not in expected_grade(np.full(4000, 0.12), 4000, 0.05).words


def test_not_assessed_is_no_grade() -> None:
    grade = expected_grade(np.array([0.9, 0.9]), 2, 0.5, unassessed="There is too little tissue.")
    assert (grade.grade, grade.assessed, grade.failure) == (NOT_ASSESSED, False, None)
    assert (grade.bad, grade.patches, grade.words) == (2, 2, "There is too little tissue.")
    none = expected_grade(np.empty(0), 0, 0.5)
    assert (none.grade, none.fraction, none.interval) == (NOT_ASSESSED, None, (0.0, 1.0))


def test_a_failed_slide_is_unacceptable_however_little_of_it_there_is() -> None:
    grade = expected_grade(np.empty(0), 0, 0.5, failure="5 of 9 tiles failed", unassessed="too little")
    assert (grade.grade, grade.assessed) == ("Unacceptable", True)


GOOD_PATCHES = {"reason": np.array([""] * 50), "p_bad": np.full(50, 0.01)}
FINE = Tiles(total=100, done=99, blank=0, failed=1)


def test_grade_of_a_slide_says_why() -> None:
    verdicts = {
        "reason": np.array(["", "blurred", "", "uncovered", "blurred"] + [""] * 25),
        "p_bad": np.array([0.0, 1.0, 0.0, 1.0, 1.0] + [0.0] * 25),
    }
    grade = grade_slide(verdicts, 30, FINE, 0.0)
    assert (grade.bad, grade.patches, grade.grade) == (3, 30, "Adequate")
    assert grade.reasons == {"blurred": 2, "uncovered": 1}
    assert "2 out of focus, 1 dark places without an outline" in grade.words
    assert grade.failure is None
    assert grade.check


@pytest.mark.parametrize(
    ("tiles", "lost", "known", "failure"),
    [
        (Tiles(total=100, done=98, blank=0, failed=2), 0.0, True, "2 of 100 tiles failed"),
        (FINE, 0.2, True, "20.0% of the tissue lost"),
        (FINE, 0.0, False, "mpp unresolved"),
    ],
)
def test_what_fails_a_slide(tiles: Tiles, lost: float, known: bool, failure: str) -> None:
    grade = grade_slide(GOOD_PATCHES, 50, tiles, lost, mpp_known=known)
    assert grade.grade == "Unacceptable"
    assert failure in str(grade.failure)
    assert failure in grade.words


@pytest.mark.parametrize("count", [0, 1, 14])
def test_a_slide_with_too_few_patches_is_not_assessed(count: int) -> None:
    verdicts = {"reason": np.array(["pale"] * count, dtype=str), "p_bad": np.full(count, 1.0)}
    grade = grade_slide(verdicts, count, FINE, 0.0)
    assert (grade.grade, grade.bad) == (NOT_ASSESSED, count)
    assert f"room for {count} patches" in grade.words


def test_another_stain_is_not_assessed() -> None:
    brown = {**GOOD_PATCHES, "blue_green": np.full(50, 1.3)}
    assert "not haematoxylin and eosin" in grade_slide(brown, 50, FINE, 0.0).words
    assert grade_slide({**GOOD_PATCHES, "blue_green": np.full(50, 0.6)}, 50, FINE, 0.0).grade == "Best"


# --- patches ----------------------------------------------------------------------------------------------------


def all_tissue(width: int, height: int, mpp: float) -> Tissue:
    scale = Scale(8.0 / mpp)
    columns, rows = scale.size(width, height)
    image = np.full((rows, columns, 3), (214, 140, 180), dtype=np.uint8)
    return make_tissue(image, scale, width, height, mpp)


def test_patches_lie_on_the_lattice_and_are_full_squares() -> None:
    patches = plan_patches(4096, 3072, 0.25, all_tissue(4096, 3072, 0.25))
    assert len(patches) == 12
    assert set(patches.width) == set(patches.height) == {1024}
    assert not (patches.x % 1024).any()
    assert patches.tissue == pytest.approx(1.0)
    assert patches.box(5) == Box(1024.0, 1024.0, 2048.0, 2048.0)


@pytest.mark.parametrize(
    ("width", "height", "mpp", "count"),
    [
        (1000, 1000, 0.25, 1),  # 250 µm
        (300, 200, 0.25, 1),
        (1540, 1024, 0.25, 2),  # the second is just more than half
        (1530, 1024, 0.25, 1),
        (2220, 2967, 0.499, 24),
        (16, 16, 0.499, 1),
    ],
)
def test_patches_at_the_border(width: int, height: int, mpp: float, count: int) -> None:
    patches = plan_patches(width, height, mpp, all_tissue(width, height, mpp))
    assert len(patches) == count
    assert ((patches.x + patches.width) <= width).all()
    assert ((patches.y + patches.height) <= height).all()


def test_patches_are_chosen_by_their_tissue_and_by_the_region() -> None:
    tissue = all_tissue(4096, 4096, 0.25)
    core = tissue.core.copy()
    core[:, : core.shape[1] // 2 - 4] = False  # a little more than the right half
    half = Tissue(core, core, ~core, tissue.scale, tissue.region, {})
    assert set(plan_patches(4096, 4096, 0.25, half).x) == {2048, 3072}
    assert set(plan_patches(4096, 4096, 0.25, half, min_tissue=0.1).x) == {1024, 2048, 3072}
    inside = tissue.restrict(Box(0, 0, 1024, 1600))
    patches = plan_patches(4096, 4096, 0.25, inside)
    assert list(zip(patches.x, patches.y, strict=True)) == [(0, 0), (0, 1024)]
    assert patches.tissue == pytest.approx([1.0, 576 / 1024], abs=1e-5)


def test_blocks_hold_every_patch_once_and_only_near_ones() -> None:
    patches = plan_patches(20_000, 9_000, 0.25, all_tissue(20_000, 9_000, 0.25))
    blocks = patches.blocks()
    assert sorted(np.concatenate(blocks)) == list(range(len(patches)))
    assert len(blocks) == 8
    for block in blocks:
        assert np.ptp(patches.x[block]) < 6 * 1024
        assert np.ptp(patches.y[block]) < 6 * 1024
    some = np.array([7, 3, 30])
    assert sorted(np.concatenate(patches.blocks(some))) == [3, 7, 30]
    assert patches.blocks(np.array([], dtype=np.int64)) == []


def test_small_slides_have_smaller_patches_and_large_ones_a_sample() -> None:
    tissue = all_tissue(4096, 3072, 0.25)
    assert set(place_patches(4096, 3072, 0.25, tissue).width) == {512}
    large = place_patches(40_000, 30_000, 0.25, all_tissue(40_000, 30_000, 0.25))
    some = sample_patches(large)
    assert (len(large), len(some)) == (1131, 150)
    assert set(large.width[:-1]) >= {1024}
    places = set(zip(large.x.tolist(), large.y.tolist(), strict=True))
    assert set(zip(some.x.tolist(), some.y.tolist(), strict=True)) <= places
    assert np.array_equal(some.x, sample_patches(large).x)
    assert sample_patches(some) is some


def test_no_tissue_no_patches() -> None:
    tissue = all_tissue(2048, 2048, 0.25)
    none = Tissue(~tissue.core, ~tissue.core, tissue.artefact, tissue.scale, tissue.region, {})
    assert len(plan_patches(2048, 2048, 0.25, none)) == 0


# --- the check on annotated tissue ------------------------------------------------------------------------------

# The four fields: dense and dark, pale and greyish, glands, spindle cells.
FIELDS = [
    "TCGA-HE-7130-01Z-00-DX1",
    "TCGA-A7-A13F-01Z-00-DX1",
    "TCGA-G9-6336-01Z-00-DX1",
    "TCGA-G9-6363-01Z-00-DX1",
]


@pytest.fixture(scope="module")
def annotated(real_data: Callable[[str], Path]) -> Annotated:
    """A field of real tissue at a quarter of its resolution, and its nuclei."""

    def read(name: str) -> tuple[npt.NDArray[np.uint8], Labels]:
        data = real_data("monuseg_train30")
        image = np.asarray(Image.open(data / "images" / f"{name}.webp").convert("RGB"))
        labels = np.asarray(Image.open(data / "labels" / f"{name}.png")).astype(np.int32)
        small = image.reshape(250, 4, 250, 4, 3).mean(axis=(1, 3)).round().astype(np.uint8)
        return small, labels[2::4, 2::4]

    return read


def verdict(image: npt.NDArray[np.uint8], labels: Labels, constants: Constants) -> str:
    _, dense = np.unique(np.append(labels, 0), return_inverse=True)
    tissue = np.ones(labels.shape, dtype=bool)
    features = measure_patch(image, dense[:-1].reshape(labels.shape).astype(np.int32), tissue, constants, 1.0)
    assert set(features) == set(FEATURES)
    return reason(features)


def grown(labels: Labels, radius: float) -> Labels:
    distance, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    return np.where(distance <= radius, labels[tuple(nearest)], 0)


@pytest.mark.parametrize("name", FIELDS)
def test_annotated_fields_are_good_and_gross_failures_are_bad(name: str, annotated: Annotated) -> None:
    image, labels = annotated(name)
    constants = calibrate([image], 1.0)
    rng = np.random.default_rng(0)
    half = rng.permutation(labels.max() + 1) % 2 == 0
    assert verdict(image, labels, constants) == ""
    assert verdict(image, np.zeros_like(labels), constants) == "uncovered"
    assert verdict(image, np.where(half[labels], labels, 0), constants) == "uncovered"
    assert verdict(image, np.roll(labels, (7, 7), (0, 1)), constants) != ""
    assert verdict(image, np.roll(labels, 120, 0)[:, ::-1].copy(), constants) != ""
    assert verdict(image, grown(labels, 5.0), constants) in {"outlines", "unsupported"}
    blurred = ndimage.gaussian_filter(image, (2.0, 2.0, 0.0))
    assert verdict(blurred, labels, constants) == "blurred"


def test_false_nuclei_beside_true_ones_are_unsupported(annotated: Annotated) -> None:
    image, labels = annotated(FIELDS[3])
    constants = calibrate([image], 1.0)
    disc = np.hypot(*np.mgrid[-3:4, -3:4]) <= 3.3
    rng, more, name = np.random.default_rng(0), labels.copy(), int(labels.max())
    for _ in range(2000):
        y, x = rng.integers(0, 243, 2)
        place = more[y : y + 7, x : x + 7]
        if not place[disc].any():
            name += 1
            place[disc] = name
    assert verdict(image, more, constants) == "unsupported"


# --- the check's parts ------------------------------------------------------------------------------------------

GOOD = {
    "lost": 0.0,
    "artefact": 0.0,
    "sharpness": 0.8,
    "dark": 0.2,
    "uncovered": 0.1,
    "unsupported": 0.0,
    "edge": 1.5,
    "density": 5000.0,
    "nuclei": 300.0,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ""),
        ({"lost": 0.2}, "lost"),
        ({"artefact": 0.5}, "artefact"),
        ({"sharpness": 0.1}, "blurred"),
        ({"uncovered": 0.9}, "uncovered"),
        ({"uncovered": 0.9, "dark": 0.001}, ""),  # hardly anything is dark: stroma without nuclei
        ({"unsupported": 0.5}, "unsupported"),
        ({"unsupported": 0.5, "nuclei": 2.0}, ""),
        ({"edge": 0.1}, "outlines"),
        ({"density": 1e5}, "implausible"),
        ({"lost": 0.2, "edge": 0.1}, "lost"),
        ({"unsupported": np.nan, "edge": np.nan, "uncovered": np.nan, "nuclei": 0.0, "dark": 0.0}, ""),
    ],
)
def test_reasons(change: dict[str, float], expected: str) -> None:
    assert reason({**GOOD, **change}) == expected
    assert expected in REASONS


def test_limits_can_be_moved() -> None:
    assert reason({**GOOD, "uncovered": 0.3}, Limits(max_uncovered=0.2)) == "uncovered"


def test_calibration_of_nothing_and_of_glass_has_a_floor() -> None:
    assert calibrate([], 1.0).dark > 0
    assert calibrate([np.full((64, 64, 3), 243, dtype=np.uint8)], 1.0).dark == calibrate([], 1.0).dark


def test_sharpness_falls_with_blur_and_does_not_depend_on_exposure() -> None:
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(0, 1, (200, 200)), 0.8)
    image = np.repeat((150 + 60 * image / np.abs(image).max())[..., None], 3, axis=2)
    sharp = sharpness(image.astype(np.uint8), 1.0)
    blurred = sharpness(ndimage.gaussian_filter(image, (1.5, 1.5, 0)).astype(np.uint8), 1.0)
    assert blurred < 0.6 * sharp
    assert sharpness((image * 0.8).astype(np.uint8), 1.0) == pytest.approx(sharp, rel=0.1)


def test_outside_the_tissue_nothing_is_missed(annotated: Annotated) -> None:
    image, labels = annotated(FIELDS[0])
    constants = calibrate([image], 1.0)
    tissue = np.zeros(labels.shape, dtype=bool)
    tissue[:, :125] = True
    left = np.where(tissue, labels, 0)
    _, dense = np.unique(left, return_inverse=True)
    features = measure_patch(image, dense.reshape(labels.shape).astype(np.int32), tissue, constants, 1.0)
    assert reason(features) == ""


# --- the check on a slide ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn_slide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Slide, Truth]:
    path = tmp_path_factory.mktemp("qc") / "drawn.svs"
    truth = write_slide(path, width=1536, height=1024, mpp=0.5, layout="dense", seed=5)
    return open_slide(path), truth


def in_file(path: Path, nuclei: Nuclei) -> Callable[[Box], Nuclei]:
    """What reads the nuclei in a box from a file of them."""
    with NucleiWriter(path, {"slide": "drawn.svs"}, {}) as writer:
        writer.write(Nuclei(nuclei.vertices, nuclei.offsets))
    return partial(read_nuclei, path)


def test_the_truth_of_a_drawn_slide_is_good_and_damage_is_worse(
    drawn_slide: tuple[Slide, Truth], tmp_path: Path
) -> None:
    slide, truth = drawn_slide
    tissue = find_tissue(slide)
    patches = plan_patches(slide.width, slide.height, 0.5, tissue)
    constants = calibrate_slide(slide, patches)
    nuclei = truth.nuclei
    good = assess_patches(slide, patches, in_file(tmp_path / "g.parquet", nuclei), tissue, constants)
    assert len(good["bad"]) == len(patches) == 6
    assert not good["bad"].any(), good["reason"]
    moved = in_file(tmp_path / "m.parquet", nuclei.translate(14, 14))
    beside = assess_patches(slide, patches, moved, tissue, constants)
    assert (np.asarray(beside["p_bad"], float) > np.asarray(good["p_bad"], float)).all()
    none = in_file(tmp_path / "n.parquet", nuclei.take(np.array([], dtype=np.int64)))
    nothing = assess_patches(slide, patches, none, tissue, constants)
    assert set(nothing["reason"]) == {"uncovered"}
    assert nothing["bad"].all()
    assert np.isnan(np.asarray(nothing["expected_aji"], float)).all()


def test_pieces_give_what_the_whole_gives(drawn_slide: tuple[Slide, Truth], tmp_path: Path) -> None:
    slide, truth = drawn_slide
    tissue = find_tissue(slide)
    patches = plan_patches(slide.width, slide.height, 0.5, tissue)
    constants = calibrate_slide(slide, patches)
    there = in_file(tmp_path / "g.parquet", truth.nuclei)
    whole = assess_patches(slide, patches, there, tissue, constants)
    parts = [assess_patches(slide, patches, there, tissue, constants, part) for part in ([4, 5], [0], [3, 1, 2])]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in whole}
    order = np.argsort(joined["index"])
    for name, column in whole.items():
        np.testing.assert_array_equal(joined[name][order], column, err_msg=name)
    empty = assess_patches(slide, patches, there, tissue, constants, [])
    assert {name: column.shape for name, column in empty.items()} == dict.fromkeys(whole, (0,))


def test_nuclei_are_read_once_for_patches_side_by_side(drawn_slide: tuple[Slide, Truth], tmp_path: Path) -> None:
    slide, truth = drawn_slide
    tissue = find_tissue(slide)
    patches = plan_patches(slide.width, slide.height, 0.5, tissue)
    read = in_file(tmp_path / "g.parquet", truth.nuclei)
    boxes = []

    def counted(box: Box) -> Nuclei:
        boxes.append(box)
        return read(box)

    assess_patches(slide, patches, counted, tissue, calibrate_slide(slide, patches))
    assert boxes == [Box(0.0, 0.0, 1536.0, 1024.0)]


def test_a_region_of_interest_is_judged_by_what_is_in_it(drawn_slide: tuple[Slide, Truth], tmp_path: Path) -> None:
    slide, truth = drawn_slide
    tissue = find_tissue(slide).restrict(Box(0, 0, 850, 1024))
    patches = plan_patches(slide.width, slide.height, 0.5, tissue)
    kept = truth.nuclei.take(tissue.contains(truth.nuclei.centroids()))
    verdicts = assess_patches(
        slide, patches, in_file(tmp_path / "r.parquet", kept), tissue, calibrate_slide(slide, patches)
    )
    assert (patches.tissue < 0.7).any()
    assert not verdicts["bad"].any(), verdicts["reason"]

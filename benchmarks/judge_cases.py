"""Cases for judges of outlines: (patch, outlines, truth) of known quality, as a table of evidence and true scores.

    python benchmarks/judge_cases.py --textures TILES --rendered 300 -o rendered.parquet           may be fitted on
    python benchmarks/judge_cases.py --annotated MONUSEG -o monuseg.parquet                        measures only
    python benchmarks/judge_cases.py --annotated DSB --mpp 0 -o dsb.parquet
    python benchmarks/judge_cases.py --annotated MONUSEG --degrade --faults blur -o degraded       images alone

A case is what one of the models finds in one image, as it is or with one fault:

- of the image, before the model sees it: blur (σ in µm), a scale that is not the image's (nuclei look so many
  times too large), stain (densities multiplied, by channel), JPEG;
- of the outlines, afterwards: dropped, merged, split, shifted, grown, shrunk, false ones.

Rendered images are those of `wsiseg.synth.render` on the textures, whose truth is exact. Annotated ones lie in the
folders `images` and `labels`, with an `index.json` that may name a split; `--mpp 0`: unknown, taken such that the
median annotated nucleus has 30 µm². Fields of 200 µm and more are also cut into four (column `part`). The work
depends on no order: every case has its own seed. `--degrade` writes the images with their faults, a folder for each
fault, for `wsiseg segment` and `wsiseg qc validate --degraded`.
"""

from __future__ import annotations

import argparse
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy import ndimage

from wsiseg.core.geometry import Box, Window
from wsiseg.core.names import IMAGE_SUFFIXES
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import largest_components, rasterize, trace
from wsiseg.evaluate.compare import find_sources
from wsiseg.evaluate.judged import true_scores
from wsiseg.interop.labelimage import read_labels
from wsiseg.models.base import Segmenter
from wsiseg.models.registry import load_segmenter
from wsiseg.models.resident import resident_segmenter
from wsiseg.qc.agreement import calibrate, measure_patch, reason
from wsiseg.qc.evidence import COLUMNS, measure_evidence
from wsiseg.qc.opinion import OPINION_MPP, Seen, compare, opinion_choice, second_opinion
from wsiseg.synth.render import MPP, RenderOptions, render_patch
from wsiseg.synth.textures import dissect
from wsiseg.tiles.measure import measure
from wsiseg.train.sources.cut import rescale
from wsiseg.train.sources.files import find_files, read_image

MODELS = ("unet-0.5", "classical", "unet-0.25")
IMAGE_FAULTS = (
    ("blur", 0.6), ("blur", 1.2), ("blur", 2.4), ("scale", 2.0), ("scale", 0.5), ("scale", 1.4), ("scale", 0.7),
    ("stain", 0.3), ("stain", 0.6), ("fade", 0.4), ("deep", 1.8), ("jpeg", 15.0),
)  # fmt: skip
OUTLINE_FAULTS = (
    ("dropped", 0.25), ("dropped", 0.5), ("merged", 0.3), ("merged", 0.7), ("split", 0.3), ("split", 0.7),
    ("shifted", 1.0), ("shifted", 2.5), ("shifted", 6.0),
    ("grown", 0.75), ("grown", 1.5), ("shrunk", 0.75), ("false", 0.5), ("false", 1.0),
)  # fmt: skip
Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Field:
    """An image (h, w, 3), its true instances (h, w), and its microns per pixel."""

    name: str
    split: str
    image: Pixels
    truth: Labels
    mpp: float


def rendered(textures: Path, count: int, seed: int, size: int) -> Iterator[Field]:
    """Fields of the package's own renderer."""
    parts = [dissect(read_image(path)) for path in find_files(textures, IMAGE_SUFFIXES).values()]
    for index in range(count):
        patch = render_patch(parts, seed, index, RenderOptions(size))
        yield Field(f"rendered-{seed}-{index}", "rendered", patch.image, patch.labels, MPP)


def annotated(folder: Path, mpp: float) -> Iterator[Field]:
    """The fields of a folder of annotated images."""
    splits = {
        entry["id"]: entry.get("split", "") for entry in json.loads((folder / "index.json").read_text())["images"]
    }
    truths = {source.name: source.path for source in find_sources(folder / "labels")}
    for name, path in find_files(folder / "images", IMAGE_SUFFIXES).items():
        truth = read_labels(truths[name]).astype(np.int32)
        areas = np.bincount(truth.ravel())[1:]
        own = mpp or float(np.clip(np.sqrt(30 / np.median(areas[areas > 0])), 0.1, 1.0))
        yield Field(name, splits.get(Path(name).stem, ""), read_image(path), truth, own)


def with_image_fault(image: Pixels, fault: str, strength: float, mpp: float, rng: np.random.Generator) -> Pixels:
    """The image as a fault leaves it; a wrong scale is none of the image's."""
    density = -np.log((image.astype(np.float32) + 1) / 256)
    if fault == "blur":
        return np.stack([ndimage.gaussian_filter(image[..., c], strength / mpp) for c in range(3)], axis=-1)
    if fault == "stain":
        density = density * np.exp(rng.normal(0, strength, 3)).astype(np.float32)
    elif fault in ("fade", "deep"):
        density = density * strength
    elif fault == "jpeg":
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(strength))
        return np.asarray(Image.open(file).convert("RGB"))
    else:
        return image
    return np.clip(np.exp(-density) * 256 - 1, 0, 255).astype(np.uint8)


def with_outline_fault(labels: Labels, fault: str, strength: float, mpp: float, rng: np.random.Generator) -> Labels:
    """The outlines as a fault leaves them. A label keeps its number; what is new gets that of its origin's kind."""
    count = int(labels.max())
    if count == 0:
        return labels
    chosen = np.flatnonzero(rng.random(count + 1) < strength)
    if fault == "dropped":
        return np.where(np.isin(labels, chosen), 0, labels)
    if fault == "shifted":
        angle = rng.uniform(0, 2 * np.pi)
        step = np.rint(strength / mpp * np.array([np.sin(angle), np.cos(angle)])).astype(int)
        return ndimage.shift(labels, step, order=0)
    if fault in ("grown", "shrunk"):
        pixels = max(1, round(strength / mpp))
        return _grown(labels, pixels) if fault == "grown" else _shrunk(labels, pixels)
    if fault == "merged":
        return _merged(labels, chosen)
    if fault == "split":
        return _split(labels, chosen, rng)
    return _false(labels, round(strength * count), rng)


def _grown(labels: Labels, pixels: int) -> Labels:
    distance, index = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    return np.where(distance <= pixels, labels[tuple(index)], 0).astype(np.int32)


def _shrunk(labels: Labels, pixels: int) -> Labels:
    low, high = ndimage.minimum_filter(labels, 3), ndimage.maximum_filter(labels, 3)
    inside = ndimage.distance_transform_edt((labels > 0) & (low == high))
    return np.where(inside >= pixels, labels, 0).astype(np.int32)


def _merged(labels: Labels, chosen: npt.NDArray[np.int64]) -> Labels:
    """Chosen nuclei joined with their nearest neighbour, and the gap between them."""
    out = labels.copy()
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, np.arange(1, labels.max() + 1)))
    for name in chosen[chosen > 0]:
        distance = np.linalg.norm(centres - centres[name - 1], axis=1)
        distance[name - 1] = np.inf
        if not np.isfinite(distance).any():
            continue
        out[out == np.nanargmin(distance) + 1] = name
    closed = ndimage.grey_closing(out, 7)
    return np.where(out > 0, out, np.where(np.isin(closed, chosen), closed, 0)).astype(np.int32)


def _split(labels: Labels, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> Labels:
    out, boxes = labels.copy(), ndimage.find_objects(labels)
    new = int(labels.max())
    for name in chosen[chosen > 0]:
        box = boxes[name - 1]
        if box is None:
            continue
        mask = labels[box] == name
        y, x = np.nonzero(mask)
        angle = rng.uniform(0, np.pi)
        side = (y - y.mean()) * np.sin(angle) + (x - x.mean()) * np.cos(angle) > 0
        new += 1
        out[box][y[side], x[side]] = new
    return out


def _false(labels: Labels, count: int, rng: np.random.Generator) -> Labels:
    """Copies of nuclei in places where none is."""
    out, boxes = labels.copy(), ndimage.find_objects(labels)
    known = [n + 1 for n, box in enumerate(boxes) if box is not None]
    for new in range(int(labels.max()) + 1, int(labels.max()) + 1 + count):
        name = int(rng.choice(known))
        mask = labels[boxes[name - 1]] == name
        h, w = mask.shape
        for _ in range(20):
            y, x = (int(rng.integers(0, max(1, side - s))) for side, s in zip(labels.shape, (h, w), strict=True))
            if not out[y : y + h, x : x + w][mask].any():
                out[y : y + h, x : x + w][mask] = new
                break
    return out


def segment(segmenter: Segmenter, image: Pixels, mpp: float) -> Nuclei:
    """What a segmenter finds in an image of ``mpp``, in its pixels, with score and measurements."""
    factor = mpp / segmenter.mpp
    small = rescale(image, np.zeros(image.shape[:2], np.int32), factor).image
    pad, height, width = 64, *small.shape[:2]
    edges = [(pad, pad + -side % segmenter.stride_px) for side in (height, width)]
    continued = np.pad(small, (*edges, (0, 0)), mode="symmetric")
    (found,) = segmenter.segment([continued], segmenter.calibrate([small]))
    found = found.translate(-pad, -pad)
    centre = found.centroids()
    found = found.take((centre >= 0).all(axis=1) & (centre[:, 0] < width) & (centre[:, 1] < height))
    found = measure(found, small, segmenter.mpp)
    return Nuclei(found.vertices / factor, found.offsets, found.columns)


def outlined(labels: Labels, image: Pixels, mpp: float, before: Nuclei) -> Nuclei:
    """Labels (h, w) as outlines: a label of ``before`` keeps its score, a new one gets the score of any."""
    traced = trace(largest_components(labels))
    names = np.asarray(traced.columns["label"]) - 1
    score = np.asarray(before.columns["score"])
    return measure(traced, image, mpp).with_columns(score=score[names % len(score)])


def evidence(image: Pixels, nuclei: Nuclei, mpp: float, checked: bool) -> dict[str, object]:
    """What a judge sees of outlines in pixels of an image of ``mpp``; ``checked``: and the old verdict."""
    small = rescale(image, np.zeros(image.shape[:2], np.int32), min(mpp, 1.0)).image
    factor = small.shape[1] / image.shape[1]
    own = mpp / factor
    near = Nuclei(nuclei.vertices * factor, nuclei.offsets, nuclei.columns)
    labels = rasterize(near, np.arange(1, len(near) + 1), small.shape[:2])
    tissue = np.ones(labels.shape, dtype=bool)
    columns = {name: nuclei.columns[name] for name in COLUMNS}
    verdict = reason(measure_patch(small, labels, tissue, calibrate([small], own), own)) if checked else ""
    return {**measure_evidence(small, labels, tissue, columns, len(near), own), "verdict": verdict}


@dataclass(frozen=True)
class Opinion:
    """On an image: labels (h, w) at ``OPINION_MPP``, the score of each, and its pixels per pixel of the image."""

    labels: Labels
    score: npt.NDArray[np.float32]
    factor: float

    def on(self, nuclei: Nuclei, y: int, x: int, h: int, w: int) -> dict[str, float]:
        """The numbers of outlines in a window of the image, of which ``nuclei`` are in the whole image's pixels."""
        y0, x0, y1, x1 = (round(at * self.factor) for at in (y, x, y + h, x + w))
        opinion = self.labels[y0:y1, x0:x1]
        near = Nuclei(nuclei.vertices * self.factor, nuclei.offsets)
        own = rasterize(near, np.arange(1, len(near) + 1), opinion.shape, (float(x0), float(y0)))
        box = Box(float(x0), float(y0), float(x1), float(y1))
        return compare(Seen(box, own, opinion, self.score, np.ones(opinion.shape, dtype=bool)))


def opinion_on(image: Pixels, mpp: float) -> Opinion:
    """What the second opinion is on an image of ``mpp``."""
    factor = mpp / OPINION_MPP
    small = rescale(image, np.zeros(image.shape[:2], np.int32), factor).image
    whole = Window(0, 0, small.shape[1], small.shape[0])
    labels, score = second_opinion(resident_segmenter(opinion_choice("cpu", None)), small, whole, whole)
    return Opinion(labels, score, small.shape[1] / image.shape[1])


def cases_of(
    field: Field, image: Pixels, nuclei: Nuclei, mpp: float, opinion: Opinion
) -> Iterator[dict[str, object]]:
    """The whole field as a case, and its quarters if they are large enough; ``mpp``: what is believed."""
    height, width = field.truth.shape
    pred = rasterize(nuclei, np.arange(1, len(nuclei) + 1), (height, width))
    windows = [(0, 0, height, width)]
    if min(height, width) * field.mpp >= 200:
        h, w = height // 2, width // 2
        windows += [(y, x, h, w) for y in (0, h) for x in (0, w)]
    for part, (y, x, h, w) in enumerate(windows):
        window = slice(y, y + h), slice(x, x + w)
        moved = nuclei.translate(-x, -y)
        bounds = moved.bounds()
        kept = moved.take((bounds[:, 2] > 0) & (bounds[:, 3] > 0) & (bounds[:, 0] < w) & (bounds[:, 1] < h))
        yield {
            "part": part, **true_scores(field.truth[window], pred[window]),
            "nuclei": len(kept), "true_nuclei": len(np.unique(field.truth[window])) - 1,
            **evidence(np.ascontiguousarray(image[window]), kept, mpp, part == 0),
            **opinion.on(nuclei, y, x, h, w),
        }  # fmt: skip


def cases(
    field: Field, models: dict[str, Segmenter], draw: int | None, kinds: Sequence[str] = ()
) -> Iterator[dict[str, object]]:
    """All cases of a field; with ``draw``, so many faults of each list at random; with ``kinds`` only such."""
    rng = np.random.default_rng(zlib.crc32(field.name.encode()))

    def pick(faults: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
        some = [fault for fault in faults if not kinds or fault[0] in kinds]
        if draw is None or draw >= len(some):
            return some
        return [some[i] for i in rng.choice(len(some), draw, replace=False)]

    plain = opinion_on(field.image, field.mpp)
    for model, segmenter in models.items():
        about = {"image": field.name, "split": field.split, "model": model}
        found = segment(segmenter, field.image, field.mpp)
        for case in cases_of(field, field.image, found, field.mpp, plain):
            yield {**about, "fault": "", "strength": 0.0, **case}
        if model == "unet-0.25":
            continue
        for fault, strength in pick(IMAGE_FAULTS):
            image = with_image_fault(field.image, fault, strength, field.mpp, rng)
            mpp = field.mpp * (strength if fault == "scale" else 1.0)
            seen = opinion_on(image, mpp)
            for case in cases_of(field, image, segment(segmenter, image, mpp), mpp, seen):
                yield {**about, "fault": fault, "strength": strength, **case}
        if len(found) == 0:
            continue
        labels = rasterize(found, np.arange(1, len(found) + 1), field.truth.shape)
        for fault, strength in pick(OUTLINE_FAULTS):
            changed = with_outline_fault(labels, fault, strength, field.mpp, rng)
            if not changed.any():
                continue
            nuclei = outlined(changed, field.image, field.mpp, found)
            for case in cases_of(field, field.image, nuclei, field.mpp, plain):
                yield {**about, "fault": fault, "strength": strength, **case}


def write_degraded(fields: Iterator[Field], out: Path, kinds: Sequence[str]) -> None:
    """The images with each fault, as ``FAULT-STRENGTH/NAME.png``; a wrong scale is said with ``--mpp``."""
    chosen = [one for one in IMAGE_FAULTS if one[0] != "scale" and (not kinds or one[0] in kinds)]
    for field in fields:
        for fault, strength in chosen:
            file = out / f"{fault}-{strength:g}" / f"{field.name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(zlib.crc32(f"{field.name} {fault} {strength:g}".encode()))
            Image.fromarray(with_image_fault(field.image, fault, strength, field.mpp, rng)).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--textures", type=Path, help="folder of unlabelled tiles at 0.25 mpp, to render on")
    where.add_argument("--annotated", type=Path, help="folder of annotated images")
    parser.add_argument("-o", "--out", type=Path, required=True, help="table, .parquet; with --degrade a folder")
    parser.add_argument("--degrade", action="store_true", help="write images with faults, and judge nothing")
    parser.add_argument("--rendered", type=int, default=300, help="how many fields to render (300)")
    parser.add_argument("--size", type=int, default=720, help="their side in pixels of 0.25 µm (720)")
    parser.add_argument("--seed", type=int, default=9012, help="of the rendered fields (9012)")
    parser.add_argument("--mpp", type=float, default=0.25, help="of annotated images; 0: unknown (0.25)")
    parser.add_argument("--draw", type=int, help="faults of each kind a field, at random (rendered 1, else all)")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--faults", nargs="+", default=[], help="only faults of these kinds")
    options = parser.parse_args()
    fields = (
        rendered(options.textures, options.rendered, options.seed, options.size)
        if options.textures
        else annotated(options.annotated, options.mpp)
    )
    if options.degrade:
        write_degraded(fields, options.out, options.faults)
        return
    models = {name: load_segmenter(name) for name in options.models}
    draw = options.draw or (1 if options.textures else None)
    rows: list[dict[str, object]] = []
    for number, field in enumerate(fields, start=1):
        rows += cases(field, models, draw, options.faults)
        if number % 10 == 0:
            print(f"{number} fields, {len(rows)} cases", flush=True)
            pd.DataFrame(rows).to_parquet(options.out)
    pd.DataFrame(rows).to_parquet(options.out)
    print(f"{options.out}: {len(rows)} cases")


if __name__ == "__main__":
    main()

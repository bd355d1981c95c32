"""Which outlines a user means, and of which slide each are: by what the files call it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from wsiseg.errors import UsageError, shown
from wsiseg.interop import labelimage, quiptables
from wsiseg.interop.segmentation import Segmentation
from wsiseg.results.folder import EXPORTS
from wsiseg.slide.discover import SLIDE_SUFFIXES

_GEOJSON = (".geojson", ".geojson.gz", ".json", ".json.gz")
_GEOPARQUET = (".parquet", ".geoparquet")
_PART = re.compile(r"\.\d+-of-\d+$")
"""What ``wsiseg export --split`` adds to a name."""
_SLIDES = (".ome.zarr", ".ome.tif", ".ome.tiff", ".zarr", *sorted(SLIDE_SUFFIXES))
_NUCLEI, _COHORT = "nuclei.parquet", "cohort.parquet"
_LISTED = 5


def find_segmentations(given: Iterable[Path]) -> list[Segmentation]:
    """The outlines in files, folders and archives, those of one slide together.

    A folder is one slide's QuIP tables, or is searched through; in a results folder of wsiseg the nuclei of every
    slide are found. Suffixes decide the format. A tar archive is read to its end to see which slides it holds.

    Raises
    ------
    UsageError
        Something given is of no format that is known, or one slide's outlines are of several formats.
    """
    found: dict[str, Segmentation] = {}
    for path in given:
        before = len(found)
        for one in _in_folder(path) if path.is_dir() else _in_file(path):
            earlier = found.get(one.name)
            if earlier is not None and earlier.format != one.format:
                raise UsageError(
                    f"{one.name}: outlines as {earlier.format} ({earlier.paths[0]}) and as {one.format} "
                    f"({one.paths[0]}). Expected one of them."
                )
            paths = dict.fromkeys((*(earlier.paths if earlier else ()), *one.paths))
            found[one.name] = Segmentation(one.format, one.name, tuple(paths))
        if path.is_dir() and len(found) == before:
            raise UsageError(
                f"no segmentations in the folder {shown(path)}. Expected QuIP tables (*-features.csv) or their "
                "archives, GeoJSON, GeoParquet, or label images."
            )
    return list(found.values())


def pair(segmentations: Sequence[Segmentation], slides: Sequence[Path]) -> dict[Path, Segmentation]:
    """The outlines of each slide that has some: those whose name is the slide's, with or without its suffix.

    Raises
    ------
    UsageError
        None have a slide, or a name fits several slides.
    """
    by_name: dict[str, list[Path]] = {}
    for slide in slides:
        for name in dict.fromkeys(_names(slide.name)):
            by_name.setdefault(name, []).append(slide)
    pairs: dict[Path, Segmentation] = {}
    for one in segmentations:
        fitting = next((by_name[name] for name in _names(one.name) if name in by_name), [])
        if len(fitting) > 1:
            raise UsageError(f"{one.name}: could be of {_some([str(path) for path in fitting])}. Give --slide.")
        if fitting and fitting[0] in pairs:
            raise UsageError(
                f"{fitting[0]}: {pairs[fitting[0]].name} and {one.name} are both outlines of it. Expected one."
            )
        if fitting:
            pairs[fitting[0]] = one
    if not pairs:
        raise UsageError(
            f"no segmentation has a slide: {_some([one.name for one in segmentations])} against "
            f"{_some([path.name for path in slides])}.\n"
            "Expected the same names, with or without suffix; or --slide."
        )
    return pairs


def of_one(segmentations: Sequence[Segmentation], slide: Path) -> dict[Path, Segmentation]:
    """The outlines of a slide that the user has named: the only ones, whatever their name, or those of its name.

    Raises
    ------
    UsageError
        There are several, and none of its name.
    """
    if len(segmentations) == 1:
        return {slide: segmentations[0]}
    return pair(segmentations, [slide])


def _names(name: str) -> Iterator[str]:
    """What a slide or a segmentation may be called: the whole name, and without a slide's suffix.

    Each also as wsiseg writes it among results. Other suffixes belong to a name: TCGA-A1.2 is not TCGA-A1.
    """
    ending = next((end for end in _SLIDES if name.lower().endswith(end)), "")
    for text in dict.fromkeys((name, name[: len(name) - len(ending)])):
        yield text
        yield re.sub(r"[^\w.\-]", "_", text)


def _in_file(path: Path) -> list[Segmentation]:
    if not os.path.lexists(path):
        raise UsageError(f"no such file or folder: {shown(path)}")
    if quiptables.archive_stem(path) is not None:
        slides = quiptables.slides_in(path)
        if not slides:
            raise UsageError(f"{path}: an archive without QuIP tables. Expected *-features.csv in it.")
        return [Segmentation("quip-csv", slide, (path,)) for slide in slides]
    kind = _format(path)
    if kind is None:
        raise UsageError(
            f"{path}: no segmentation by its name. Expected a .tar or .tar.gz of QuIP tables or their folder, "
            f"{' '.join(_GEOJSON)}, {' '.join(_GEOPARQUET)}, or a label image "
            f"({' '.join(sorted(labelimage.SUFFIXES))})."
        )
    return [Segmentation(kind, _called(path), (path,))]


def _in_folder(folder: Path) -> list[Segmentation]:
    """What a search through a folder finds; hidden files and what is no segmentation are passed over."""
    found: list[Segmentation] = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".zarr"))
        here = Path(root)
        if any(quiptables.TABLE_NAME.fullmatch(name) for name in files):
            found.append(Segmentation("quip-csv", here.name or here.resolve().name, (here,)))
            continue
        if _NUCLEI in files:  # one slide's results: its other files are no outlines
            folders.clear()
            found.append(Segmentation("geoparquet", _called(here / _NUCLEI), (here / _NUCLEI,)))
            continue
        if _COHORT in files:  # a results folder: what was exported from it is there a second time
            folders[:] = [name for name in folders if name != EXPORTS]
        for name in sorted(files):
            path = here / name
            known = quiptables.archive_stem(path) is not None or _format(path) is not None
            if known and not name.startswith(".") and name != _COHORT:
                found += _in_file(path)
    return found


def _format(path: Path) -> str | None:
    name = path.name.lower()
    kinds: Mapping[str, Iterable[str]] = {
        "geojson": _GEOJSON, "geoparquet": _GEOPARQUET, "labels": labelimage.SUFFIXES
    }  # fmt: skip
    return next((kind for kind, suffixes in kinds.items() if name.endswith(tuple(suffixes))), None)


def _called(path: Path) -> str:
    """What a file calls its slide: its name without suffix and part; of ``nuclei.parquet`` its folder's."""
    if path.name == _NUCLEI:
        return path.resolve().parent.name
    suffixes = sorted((*_GEOJSON, *_GEOPARQUET, *labelimage.SUFFIXES), key=len, reverse=True)
    ending = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), "")
    return _PART.sub("", path.name[: len(path.name) - len(ending)])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(shown, names[:_LISTED])) + more

"""wsiseg: whole-slide nucleus segmentation on Dask, with exact seams and a grade for each slide.

    import wsiseg

    result = wsiseg.segment("a.svs", out="results")
    result.nuclei       # a GeoDataFrame: one polygon a nucleus, in level-0 pixels
    result.grade        # Best to Unacceptable, and why

The folders stand in the order in which a slide goes through them; each imports only what stands above it:

    errors     what was got, what was expected, what to do
    core       geometry, polygons, rasters, files: values and arithmetic
    slide      a file → Slide: levels, microns per pixel, pixels at any scale          open_slide
    tissue     Slide → where there is tissue
    artefacts  Slide → what spoils its tissue, a map at 8 µm
    models     an image → nuclei: networks, decoders, engines, weights                 load_segmenter
    results    the folder that all is written to, and what is read from it             read_nuclei
    tiles      Slide → TileGrid → parts: a batch of tiles is read, segmented, measured
    stitch     parts → nuclei.parquet: each nucleus exactly once, and the seams' audit
    qc         patches → verdicts → grade
    interop    results ↔ other programs' formats                                       export
    report     results → report.html, cohort.csv, pictures
    evaluate   results ↔ truth: scores with intervals
    run        all of that for many slides, on Dask or without                         segment
    convert    Slide → OME-Zarr, on Dask
    synth      drawn patches whose nuclei are all known
    train      patches → weights
    testing    drawn slides, damage to order, conformance suites

The names above are imported when they are first used: ``import wsiseg`` alone imports nothing else (SPEC 1).
"""

from wsiseg.version import __version__ as __version__

__all__ = [
    "ClusterOptions",
    "CohortResult",
    "SegmentOptions",
    "SegmentResult",
    "Segmenter",
    "Slide",
    "errors",
    "export",
    "list_models",
    "load_segmenter",
    "open_executor",
    "open_slide",
    "read_nuclei",
    "segment",
]

TYPE_CHECKING = False  # as type checkers know it; typing itself takes longer to import than all of this
if TYPE_CHECKING:
    from wsiseg import errors
    from wsiseg.interop.export import export
    from wsiseg.models.base import Segmenter
    from wsiseg.models.registry import list_models, load_segmenter
    from wsiseg.results.nuclei import read_geodataframe as read_nuclei
    from wsiseg.run.cluster import ClusterOptions, open_executor
    from wsiseg.run.outcome import CohortResult, SegmentResult
    from wsiseg.run.session import segment
    from wsiseg.slide import Slide, open_slide
    from wsiseg.tiles.request import SegmentOptions

_HOMES = {  # module, and the name there
    "ClusterOptions": "run.cluster:ClusterOptions",
    "CohortResult": "run.outcome:CohortResult",
    "SegmentOptions": "tiles.request:SegmentOptions",
    "SegmentResult": "run.outcome:SegmentResult",
    "Segmenter": "models.base:Segmenter",
    "Slide": "slide:Slide",
    "errors": "errors",
    "export": "interop.export:export",
    "list_models": "models.registry:list_models",
    "load_segmenter": "models.registry:load_segmenter",
    "open_executor": "run.cluster:open_executor",
    "open_slide": "slide:open_slide",
    "read_nuclei": "results.nuclei:read_geodataframe",
    "segment": "run.session:segment",
}


def __getattr__(name: str) -> object:
    """A public name, imported when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wsiseg' has no attribute {name!r}")
    import importlib

    module, _, attribute = _HOMES[name].partition(":")
    home = importlib.import_module(f"wsiseg.{module}")
    value = globals()[name] = getattr(home, attribute) if attribute else home
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

"""What a user asks for: the options of a run, and one slide with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsiseg.models.registry import DEFAULT_MODEL
from wsiseg.models.resident import ModelChoice


@dataclass(frozen=True)
class SegmentOptions:
    """What decides a run's results, and which finished ones it may reuse.

    Attributes
    ----------
    model : str
        A name of :func:`wsiseg.list_models`, or the path of a weight file, a checkpoint or a manifest
        (docs/models.md); or ``auto``, which picks one for each slide (:func:`wsiseg.models.automatic.pick_model`)
        and goes on with what an earlier call has picked.
    tile : int
        Side of a tile's core in pixels at the model's mpp.
    mpp : float or None
        Microns per pixel of every slide, instead of what its metadata say.
    mpp_table : Path or None
        CSV with columns ``slide`` and ``mpp``, for single slides.
    roi : (x, y, width, height) or None
        In level-0 pixels.
    mask : Path or None
        GeoJSON polygons in level-0 pixels.
    tissue_only : bool
        False segments the whole slide, tissue or not.
    retry_partial : bool
        Compute slides again of which some area was lost.
    overwrite : bool
        Replace results of other settings in the same folder, instead of refusing.
    precision : {"auto", "fp32", "bf16"}
        Arithmetic of the network; auto: bf16 where the hardware has it.
    engine : {"auto", "torch", "openvino"}
        What computes the network; auto: OpenVINO for ONNX files, torch for all others.
    mirrors : bool
        Average the network over the four mirror images of each tile: four times the time, slightly better.
    qc_all : bool
        Judge every patch of a slide for its grade, instead of a random sample of a large one's.
    """

    model: str = DEFAULT_MODEL
    tile: int = 2048
    mpp: float | None = None
    mpp_table: Path | None = None
    roi: tuple[float, float, float, float] | None = None
    mask: Path | None = None
    tissue_only: bool = True
    retry_partial: bool = False
    overwrite: bool = False
    precision: str = "auto"
    engine: str = "auto"
    mirrors: bool = False
    qc_all: bool = False

    def choice(self, device: str, threads: int | None) -> ModelChoice:
        """The segmenter on a device, with so many threads of torch."""
        return ModelChoice(self.model, device, self.precision, threads, self.engine, self.mirrors)


@dataclass(frozen=True)
class SlideRequest:
    """What the user asked for one slide. Paths are absolute: they travel to workers in other folders.

    ``choice``: the options' segmenter, on what the executor has; its model may be ``auto``.
    """

    path: Path
    options: SegmentOptions
    choice: ModelChoice

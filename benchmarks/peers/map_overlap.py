"""What one writes without wsiseg: tifffile, `dask.array.map_overlap`, the same network, components of its map.

    python benchmarks/peers/map_overlap.py SLIDE OUT.parquet --workers 2

Chunks of 2048² at the network's resolution, Dask's threads, one thread of torch's in each of them, the precision
that wsiseg takes. Touching nuclei stay one, and there are no outlines: centre, area and box of each component.
Prints ``{"nuclei": N}``.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
import torch
import zarr
from scipy import ndimage

from wsiseg.models.engine.engine import cpu_has_bf16
from wsiseg.models.networks import build_network
from wsiseg.models.registry import find_model
from wsiseg.models.weightfile import load_weights

MODEL, MPP = "unet-0.5", 0.5
CHUNK, HALO, STRIDE = 2048, 64, 16
LEAST_AREA_UM2 = 6.0


def load_network(model: str) -> torch.nn.Module:
    """The network of a model of wsiseg, ready for inference."""
    weights = load_weights(find_model(model))
    network = build_network(weights.network.name, weights.network.parameters)
    network.load_state_dict(dict(weights.state))
    ready = network.eval().to(torch.bfloat16 if cpu_has_bf16() else torch.float32)
    return ready.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def at_half_resolution(path: Path) -> da.Array:
    """A slide of 0.25 µm a pixel at 0.5: level 0, lazily, each pixel the mean of 2 × 2."""
    level = zarr.open(tifffile.imread(path, aszarr=True, level=0), mode="r")
    pixels = da.from_zarr(level, chunks=(2 * CHUNK, 2 * CHUNK, 3))
    return da.coarsen(np.mean, pixels, {0: 2, 1: 2}, trim_excess=True).round().astype(np.uint8)


@torch.inference_mode()
def foreground(pixels: npt.NDArray[np.uint8], network: torch.nn.Module) -> npt.NDArray[np.bool_]:
    """Where the network sees nuclei: bool (h, w) of pixels (h, w, 3)."""
    height, width = pixels.shape[:2]
    sides = [(0, -height % STRIDE), (0, -width % STRIDE), (0, 0)]
    image = torch.from_numpy(np.pad(pixels, sides, mode="edge"))[None].permute(0, 3, 1, 2)
    dtype = next(network.parameters()).dtype
    logits = network(image.to(dtype) / 127.5 - 1)["foreground"][0, 0]
    return (logits > 0).numpy()[:height, :width]


def components(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Columns x, y, area and box of the components that are large enough, in pixels of the mask."""
    labels, _ = ndimage.label(mask)
    boxes = ndimage.find_objects(labels)
    rows = []
    for number, (y, x) in enumerate(boxes, 1):
        i, j = np.nonzero(labels[y, x] == number)
        if len(i) * MPP**2 >= LEAST_AREA_UM2:
            centre = (x.start + j.mean() + 0.5, y.start + i.mean() + 0.5)
            rows.append((*centre, len(i), x.start, y.start, x.stop, y.stop))
    names = ("x", "y", "area_px", "left", "top", "right", "bottom")
    return dict(zip(names, np.array(rows, dtype=float).reshape(-1, len(names)).T, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    infer = partial(foreground, network=load_network(MODEL))
    depth = {0: HALO, 1: HALO, 2: 0}
    pixels = at_half_resolution(options.slide)
    mask = da.map_overlap(
        infer, pixels, depth=depth, boundary="reflect", drop_axis=2, dtype=bool, meta=np.empty((0, 0), bool)
    )
    with dask.config.set(scheduler="threads", num_workers=options.workers):
        found = components(mask.compute())
    pq.write_table(pa.table(found), options.out)
    print(json.dumps({"nuclei": len(found["x"])}))


if __name__ == "__main__":
    main()

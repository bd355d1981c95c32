"""HoVer-Net ("fast", six types) by TIAToolbox 2, in an environment that has it.

    python benchmarks/peers/tiatoolbox_hovernet.py SLIDE OUT --workers 2 --weights hovernet.tar

Patches, strides and tiles are those of TIAToolbox's own model `hovernet_fast-pannuke`; only the weights are given,
a state dict with the published names. Imports nothing of wsiseg. Prints ``{"nuclei": N}``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tiatoolbox.annotation.storage import SQLiteStore
from tiatoolbox.models.architecture.hovernet import HoVerNet
from tiatoolbox.models.engine.io_config import IOInstanceSegmentorConfig
from tiatoolbox.models.engine.multi_task_segmentor import MultiTaskSegmentor

MPP = {"units": "mpp", "resolution": 0.25}
TYPES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("out", type=Path, help="a folder that does not exist")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--weights", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.workers)
    model = HoVerNet(num_types=TYPES, mode="fast", nuc_type_dict={n: f"type {n}" for n in range(TYPES)})
    model.load_state_dict(torch.load(options.weights, map_location="cpu", weights_only=True))
    layout = IOInstanceSegmentorConfig(
        input_resolutions=[MPP],
        output_resolutions=[MPP] * 3,
        save_resolution=MPP,
        patch_input_shape=[256, 256],
        patch_output_shape=[164, 164],
        stride_shape=[164, 164],
        tile_shape=[1024, 1024],
        margin=128,
    )
    engine = MultiTaskSegmentor(model, batch_size=8, num_workers=options.workers, device="cpu", verbose=False)
    engine.run(
        [options.slide],
        ioconfig=layout,
        patch_mode=False,
        save_dir=options.out,
        output_type="annotationstore",
        auto_get_mask=True,
    )
    print(json.dumps({"nuclei": sum(len(SQLiteStore(file)) for file in options.out.rglob("*.db"))}))


if __name__ == "__main__":
    main()

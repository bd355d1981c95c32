"""A network such as others bring, traced into a file, and its manifest."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MANIFEST: dict[str, Any] = {
    "format": 1,
    "name": "dark",
    "file": "dark.pt",
    "licence": "CC0-1.0",
    "data": ["none"],
    "mpp": 0.5,
    "input": {"range": [0.0, 1.0], "stride_px": 8, "reach_px": 0},
    "head": {"name": "foreground", "maps": {"foreground": {"output": 0}}},
    "decoder": {"name": "watershed", "parameters": {"min_area_um2": 3.0}},
}


def toml(value: Mapping[str, Any], prefix: str = "") -> str:
    """TOML of texts, numbers, lists and tables."""
    lines = [f"{key} = {json.dumps(item)}" for key, item in value.items() if not isinstance(item, Mapping)]
    for key, item in value.items():
        if isinstance(item, Mapping):
            lines += [f"[{prefix}{key}]", toml(item, f"{prefix}{key}.")]
    return "\n".join(lines)


def changed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with values at dotted keys replaced; None removes one."""
    content = copy.deepcopy(MANIFEST)
    for key, value in changes.items():
        *path, last = key.split(".")
        table = content
        for part in path:
            table = table.setdefault(part, {})
        if value is None:
            table.pop(last)
        else:
            table[last] = value
    return content


class Darkness(nn.Module):
    """Logit of being dark: pixels in 0 … 1, dark below a half."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1)
        assert self.conv.bias is not None
        nn.init.constant_(self.conv.weight, -10.0)
        nn.init.constant_(self.conv.bias, 15.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def bring(folder: Path, module: nn.Module | None = None, **changes: Any) -> Path:
    """A traced module and its manifest, the path of which is returned; keys of changes have __ for dots."""
    script = torch.jit.trace(module or Darkness(), torch.zeros(1, 3, 32, 32), check_trace=False)
    script.save(str(folder / "dark.pt"))
    path = folder / "dark.toml"
    path.write_text(toml(changed({key.replace("__", "."): value for key, value in changes.items()})))
    return path

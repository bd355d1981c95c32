"""The field's networks by name, one file each: a frozen configuration and a torch module.

Every network maps images (N, 3, h, w) in [-1, 1], as the engine gives them, to a dict of raw maps (logits where
a map is a probability); what its authors did to pixel values happens inside. ``config.outputs`` names the maps
and their channels (:mod:`wsiseg.models.heads` what they mean), ``config.output_shape`` says what size they have,
``config.stride_px`` at what steps the pooling repeats, ``config.reach_px`` how far a pixel can have an effect, and
``config.window_px`` how large an image may be for its memory to stay moderate (None: as large as a tile).

    network = build_network("unet", {"widths": [32, 64, 128, 256], "stem": 2, "head": "offsets"})
    network(images)     # {"foreground": (N, 1, h, w), "offsets": (N, 2, h, w) in pixels, "depth": (N, 1, h, w)}

Importing this package imports no torch.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wsiseg.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

# name: (module, configuration, network, parameters that differ from the configuration's defaults)
_NETWORKS: Mapping[str, tuple[str, str, str, Mapping[str, Any]]] = MappingProxyType(
    {
        "unet": ("unet", "UNetConfig", "UNet", {}),
        "joyce": ("joyce", "JoyceConfig", "JoyceUNet", {}),
        "hou": ("hou", "HouConfig", "HouUNet", {}),
        "unet-resnet34": ("encoder_unet", "EncoderUNetConfig", "EncoderUNet", {"encoder": "resnet34"}),
        "unet-densenet121": ("encoder_unet", "EncoderUNetConfig", "EncoderUNet", {"encoder": "densenet121"}),
        "unet-xception": ("encoder_unet", "EncoderUNetConfig", "EncoderUNet", {"encoder": "xception"}),
        "unet-efficientnet-lite2": (
            "encoder_unet",
            "EncoderUNetConfig",
            "EncoderUNet",
            {"encoder": "efficientnet-lite2"},
        ),
        "hovernet-original": ("hovernet", "HoVerNetConfig", "HoVerNet", {"mode": "original"}),
        "hovernet-fast": ("hovernet", "HoVerNetConfig", "HoVerNet", {"mode": "fast"}),
        "cnn3": ("cnn3", "CNN3Config", "CNN3", {}),
    }
)


def network_names() -> tuple[str, ...]:
    """The names that :func:`build_network` knows."""
    return tuple(_NETWORKS)


def network_config(name: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """The configuration of a network: the defaults of ``name`` with ``parameters`` on top.

    Raises
    ------
    ModelError
        An unknown name or parameter, or a value that the network cannot have.
    """
    module, config, _, defaults = _entry(name)
    kind = getattr(module, config)
    values = {**defaults, **(parameters or {})}
    unknown = sorted(set(values) - {field.name for field in dataclasses.fields(kind)})
    if unknown:
        known = ", ".join(field.name for field in dataclasses.fields(kind))
        raise ModelError(f"network {name!r} has no parameters {unknown}; it has {known}")
    # JSON has no tuples.
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ModelError(f"network {name!r}: {error}") from error


def build_network(name: str, parameters: Mapping[str, Any] | None = None) -> nn.Module:
    """A network with fresh weights, by torch's random state.

    Parameters
    ----------
    name : str
        One of :func:`network_names`.
    parameters : mapping, optional
        Fields of its configuration; what is not given keeps its default.

    Raises
    ------
    ModelError
        As :func:`network_config`.
    """
    config = network_config(name, parameters)
    module, _, network, _ = _entry(name)
    built: nn.Module = getattr(module, network)(config)
    return built


def _entry(name: str) -> tuple[Any, str, str, Mapping[str, Any]]:
    if name not in _NETWORKS:
        raise ModelError(f"no network {name!r}; there are {', '.join(_NETWORKS)}")
    module, config, network, defaults = _NETWORKS[name]
    return importlib.import_module(f"wsiseg.models.networks.{module}"), config, network, defaults

"""From the channels of a network's last layer to its maps by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from wsiseg.models.heads import head_by_name


def named_maps(
    x: Tensor, channels: Mapping[str, int], head: str, stem: int, length_scale_px: float
) -> dict[str, Tensor]:
    """The raw maps of a network's last layer.

    Parameters
    ----------
    x : tensor (N, sum of channels · stem², h, w)
    channels : mapping of str to int
        Of each map, in order.
    head : str
        Says which maps are lengths.
    stem : int
        Pixels of the maps a side for each of ``x`` (Shi et al., CVPR 2016, doi:10.1109/CVPR.2016.207).
    length_scale_px : float
        Unit of lengths in ``x``, in pixels of the maps.

    Returns
    -------
    dict of str to tensor (N, channels, h · stem, w · stem)
        Lengths in pixels.
    """
    parts = nn.functional.pixel_shuffle(x, stem).split(list(channels.values()), dim=1)
    lengths = head_by_name(head).lengths
    return {
        name: part * length_scale_px if name in lengths else part
        for name, part in zip(channels, parts, strict=True)
    }

"""What a painted mask lacks in content and in style, in the features of the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from wsiseg.synth.renderers.adain.networks import moments


def transfer_losses(output: Sequence[Tensor], target: Tensor, style: Sequence[Tensor]) -> dict[str, Tensor]:
    """Huang & Belongie's two terms, of the features relu1_1 … relu4_1 of what was painted and of the style.

    Returns
    -------
    dict of str to scalar Tensor
        ``content``: MSE(relu4_1, ``target``). ``style``: Σ (MSE of the means + MSE of the standard deviations).
    """
    pairs = [
        functional.mse_loss(one, other)
        for made, real in zip(output, style, strict=True)
        for one, other in zip(moments(made), moments(real), strict=True)
    ]
    return {"content": functional.mse_loss(output[-1], target), "style": torch.stack(pairs).sum()}

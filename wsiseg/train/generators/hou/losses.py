"""The losses of Hou et al.'s refiner and of its discriminator [1]_.

References
----------
.. [1] Hou et al. 2019, doi:10.1109/CVPR.2019.00873, after Shrivastava et al. 2017, doi:10.1109/CVPR.2017.241.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from wsiseg.synth.renderers.transfer.refiner import REAL, SYNTHETIC

L1_WEIGHT, L2_WEIGHT, SEGMENTER_WEIGHT = 1e-3, 1e-2, 1e-7


def discriminator_loss(real: Tensor, synthetic: Tensor) -> Tensor:
    """Cross entropy of the logits of real and of synthetic pairs, summed over positions, mean over pairs."""
    return _sum_over_positions(real, REAL) + _sum_over_positions(synthetic, SYNTHETIC)


def refiner_loss(logits: Tensor, refined: Tensor, image: Tensor, segmenter_loss: Tensor | None = None) -> Tensor:
    """Σ CE(real) + 0.001 L1 + 0.01 L2 - 1e-7 · segmenter loss.

    Parameters
    ----------
    logits : Tensor (N, 2, h', w')
        The discriminator's, of the refined images.
    refined, image : Tensor (N, 3, h, w)
        In [-1, 1]. L1 and L2 are sums over an image, mean over images.
    segmenter_loss : Tensor, optional
        The segmenter's loss on the refined images: the refiner makes them hard for it.
    """
    change = refined - image
    loss = _sum_over_positions(logits, REAL)
    loss = loss + L1_WEIGHT * change.abs().sum() / len(image) + L2_WEIGHT * change.square().sum() / len(image)
    return loss if segmenter_loss is None else loss - SEGMENTER_WEIGHT * segmenter_loss


def _sum_over_positions(logits: Tensor, label: int) -> Tensor:
    # torch's own cross entropy of maps adds up in any order on a GPU.
    return -functional.log_softmax(logits, dim=1)[:, label].sum() / len(logits)

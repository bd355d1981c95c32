"""How like real images generated ones are, by distances between distributions of features.

The distances are those that are called FID and KID where the features are an Inception network's. Ours are those of
the encoder of this package's default network, and called after it: numbers of different features cannot be
compared. A TorchScript file of an Inception network gives the published ones.

References
----------
.. [1] Fréchet distance: Heusel et al. 2017, arXiv:1706.08500.
.. [2] Kernel distance: Bińkowski et al. 2018, arXiv:1801.01401.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsiseg.errors import ModelError
from wsiseg.models.registry import DEFAULT_MODEL, WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

Images = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

_BATCH = 16
_DRAWS, _LARGEST = 50, 500  # subsets of the kernel distance, and their size


@dataclass(frozen=True)
class Features:
    """A function from images uint8 (N, h, w, 3) to features float64 (N, D), and the name that scores get of it."""

    name: str
    of: Callable[[Images], Float]


def likeness(real: Images, generated: Images, features: Features, seed: int = 0) -> dict[str, float]:
    """Scores by name: ``frechet_<features>`` and ``kernel_<features>``; lower is more alike.

    Parameters
    ----------
    real, generated : uint8 array (N, h, w, 3), (M, h, w, 3)
        At one scale. With few images the Fréchet distance is biased upwards: compare equal numbers.
    features : Features
    seed : int
        Of the subsets of the kernel distance.
    """
    one, other = features.of(real), features.of(generated)
    return {
        f"frechet_{features.name}": frechet_distance(one, other),
        f"kernel_{features.name}": kernel_distance(one, other, seed),
    }


def frechet_distance(one: Float, other: Float) -> float:
    """Squared Fréchet distance of two normal distributions, fitted to features (N, D) and (M, D) [1]_.

    Raises
    ------
    ValueError
        Fewer than two of either.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError(f"{len(one)} and {len(other)} images: a distribution needs at least two")
    means = one.mean(axis=0) - other.mean(axis=0)
    first, second = np.atleast_2d(np.cov(one, rowvar=False)), np.atleast_2d(np.cov(other, rowvar=False))
    # tr √(AB) = tr √(√A B √A), which is symmetric: no complex roots.
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ second @ root)
    common = np.sqrt(np.maximum(mixed, 0)).sum()
    return float(max(means @ means + np.trace(first) + np.trace(second) - 2 * common, 0.0))


def kernel_distance(one: Float, other: Float, seed: int = 0) -> float:
    """Unbiased squared maximum mean discrepancy by a cubic kernel, the mean over random subsets [2]_.

    May be slightly below 0 for equal distributions.

    Raises
    ------
    ValueError
        Fewer than two of either.
    """
    size = min(len(one), len(other), _LARGEST)
    if size < 2:
        raise ValueError(f"{len(one)} and {len(other)} images: a distribution needs at least two")
    rng = np.random.default_rng(seed)
    draws = 1 if size == len(one) == len(other) else _DRAWS
    return float(np.mean([_discrepancy(*(_some(rng, x, size) for x in (one, other))) for _ in range(draws)]))


def diversity(images: Images) -> float:
    """Standard deviation over the draws for one layout, the mean over layouts, pixels and channels.

    Parameters
    ----------
    images : uint8 array (layouts, draws, h, w, 3)
        The published number is of ten draws.

    Returns
    -------
    float
        On the scale of -1 to 1 that networks give.
    """
    deviation = np.stack([layout.astype(np.float32).std(axis=0) for layout in images])
    return float(deviation.mean() / 127.5)


def default_features(name: str = DEFAULT_MODEL) -> Features:
    """Features of the encoder of a U-Net of this package: the means of its two coarsest levels' maps.

    Raises
    ------
    ModelError
        No such weights, or another network.
    """
    import torch
    from torch.nn import functional

    from wsiseg.models.networks import build_network
    from wsiseg.models.networks.unet import UNet
    from wsiseg.models.weightfile import load_weights

    file = load_weights(WEIGHTS / f"{name}.safetensors")
    network = build_network(file.network.name, file.network.parameters)
    if not isinstance(network, UNet):
        raise ModelError(f"model {name!r}: its network is {file.network.name!r}; expected a unet")
    # What only training needs may be missing from the last layer, which is not used here.
    state = {key: value.float() for key, value in file.state.items() if not key.startswith("head.")}
    network.load_state_dict(state, strict=False)
    network.eval()

    def of(batch: Tensor) -> Tensor:
        x = batch.float() / 127.5 - 1
        x = torch.relu(network.stem(x)) if network.config.stem > 1 else x
        pooled = []
        for level, block in enumerate(network.down):
            x = block(x if level == 0 else functional.max_pool2d(x, 2))
            pooled.append(x.mean(dim=(2, 3)))
        return torch.cat(pooled[-2:], dim=1)

    return Features(name, lambda images: _through(of, images))


def script_features(path: Path) -> Features:
    """Features of a TorchScript file, for example an Inception network; scores are named after the file.

    The program maps uint8 images (N, 3, h, w) to features (N, D); one that takes ``return_features`` is asked for
    them.

    Raises
    ------
    ModelError
        The file cannot be used.
    """
    import torch

    from wsiseg.models.foreign.torchscript import load_script

    program = load_script(path)
    method: Any = program.forward  # of a script it knows its arguments
    names = [argument.name for argument in method.schema.arguments]
    asked = {"return_features": True} if "return_features" in names else {}

    def of(batch: Tensor) -> Tensor:
        found = program(batch.contiguous(), **asked)
        if not torch.is_tensor(found) or found.ndim != 2:
            raise ModelError(f"{path}: gave {type(found).__name__}; expected features, a tensor (N, D)")
        return found

    return Features(path.stem, lambda images: _through(of, images))


def _through(of: Callable[[Tensor], Tensor], images: Images) -> Float:
    import torch

    with torch.inference_mode():
        return np.concatenate([of(batch).double().cpu().numpy() for batch in _batches(images)])


def _batches(images: Images) -> Iterator[Tensor]:
    import torch

    for start in range(0, len(images), _BATCH):
        yield torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH].transpose(0, 3, 1, 2)))


def _some(rng: np.random.Generator, features: Float, size: int) -> Float:
    return features[rng.choice(len(features), size, replace=False)]


def _discrepancy(one: Float, other: Float) -> float:
    count, width = one.shape
    within = [(x @ x.T / width + 1) ** 3 for x in (one, other)]
    across = (one @ other.T / width + 1) ** 3
    same = sum((k.sum() - np.trace(k)) / (count * (count - 1)) for k in within)
    return float(same - 2 * across.mean())

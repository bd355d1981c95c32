"""How large the share of a slide's bad patches can be, given what a judge says of some of them."""

from __future__ import annotations

import numpy as np

from wsiseg.core.geometry import FloatArray

_NODES = 21  # of the quadrature over the judge's common error
_SURE = 1e-6


def share_interval(p_bad: FloatArray, placed: int, shift: float, confidence: float = 0.95) -> tuple[float, float]:
    """A two-sided interval of the share of bad patches among all that a slide has room for.

    Three errors are joined: each patch is bad or not by chance; the judged patches are a sample; and the judge may
    be wrong about all patches of a slide in one direction, since laboratories and annotators differ. The last is a
    common shift of the log odds.

    Parameters
    ----------
    p_bad : float array (P,)
        Of the judged patches, at least one.
    placed : int
        All patches, at least P.
    shift : float
        Standard deviation of the common error of the log odds.
    confidence : float

    Returns
    -------
    (low, high) : float
        Quantiles of the beta distribution that has mean and variance of the share, half a patch wider.
    """
    from scipy.special import betaincinv, expit, logit  # scipy.stats takes a second to import

    if not 1 <= len(p_bad) <= placed:
        raise ValueError(f"{len(p_bad)} patches judged of {placed}")
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    weights = weights / weights.sum()
    shifted = expit(logit(np.clip(p_bad, _SURE, 1 - _SURE))[:, None] + shift * nodes)
    shares = shifted.mean(axis=0)
    mean = float(weights @ shares)
    common = float(weights @ (shares - mean) ** 2)
    chance = float(weights @ (shifted * (1 - shifted)).mean(axis=0)) / placed
    left_out = 1 - len(p_bad) / placed
    sampling = float(np.var(p_bad, ddof=1)) / len(p_bad) * left_out if len(p_bad) > 1 else left_out / 4
    variance = min(common + chance + sampling, 0.99 * mean * (1 - mean))
    strength = mean * (1 - mean) / variance - 1
    tail = (1 - confidence) / 2
    low, high = betaincinv(mean * strength, (1 - mean) * strength, [tail, 1 - tail])
    half = 0.5 / placed  # shares are whole numbers of patches
    return max(float(low) - half, 0.0), min(float(high) + half, 1.0)

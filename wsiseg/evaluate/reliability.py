"""A validation for people and for programs: a page with reliability plots, the patches as tables, the figures.

The page needs no network and no script; the template escapes everything, and a content security policy allows its
own style sheet alone.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
from pathlib import Path

import jinja2
import markupsafe
import numpy as np

from wsiseg.core.atomic import write_bytes, write_json
from wsiseg.core.columnfile import as_table, csv_bytes, parquet_bytes
from wsiseg.core.environment import environment_faults
from wsiseg.evaluate.compare import listed
from wsiseg.evaluate.judged import Judged
from wsiseg.evaluate.validation import Bin, Estimate, Group, Validation

METRIC_WORDS = {
    "rho": "ρ",
    "auroc": "AUROC (bad)",
    "mae": "MAE",
    "bias": "bias",
    "ece": "ECE",
    "brier": "Brier",
    "coverage": "90% covers",
}
"""Metrics as people know them."""


def write_validation(out: Path, judged: Judged, validation: Validation) -> Path:
    """Write ``validation.html``, ``.json`` and, of the patches, ``.csv`` and ``.parquet`` into a folder.

    Each is written atomically; the folder is made.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    with environment_faults(out):
        out.mkdir(parents=True, exist_ok=True)
    columns = judged.columns
    bad = validation.limits.bad(np.asarray(columns["aji"], np.float64), np.asarray(columns["f1"], np.float64))
    table = as_table({**columns, "bad": bad})
    write_bytes(out / "validation.parquet", parquet_bytes(table))
    write_bytes(out / "validation.csv", csv_bytes(table))
    write_json(out / "validation.json", validation.to_dict())
    write_bytes(out / "validation.html", render_validation(validation).encode("utf-8", "replace"))
    return out / "validation.html"


def render_validation(validation: Validation) -> str:
    """The page as text."""
    style = _resource("validation.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _template().render(
        validation=validation,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        style=markupsafe.Markup(style),
        metrics=METRIC_WORDS,
        left_out=left_out(validation),
        title=group_title,
        text=estimate_text,
        point=_point,
        ticks=[n / 5 for n in range(6)],
        plots=_plots,
    )


def group_title(group: Group, by: str) -> str:
    """ "natural, model unet-0.5: 64 patches of 16 images, 12 bad (10.3 expected)"."""
    which = "all" if group.value is None else f"{by} {group.value or 'none'}"
    return (
        f"{group.range}, {which}: {group.patches:,} {_some(group.patches, 'patch', 'patches')} of {group.images:,} "
        f"{_some(group.images, 'image', 'images')}, {group.bad:,} bad ({group.expected_bad:,.1f} expected)"
    )


def estimate_text(estimate: Estimate | None) -> str:
    """ "0.742 (0.602 – 0.831)"; "–" where it is not defined."""
    if estimate is None or estimate.value is None:
        return "–"
    if estimate.low is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} – {estimate.high:.3f})"


def left_out(validation: Validation) -> list[str]:
    """What was not validated, in sentences."""
    few = f"{validation.few:,} {_some(validation.few, 'patch', 'patches')} with too few true nuclei left out."
    said = [few] if validation.few else []
    left = {
        "truth": validation.without_truth,
        "results": validation.without_results,
        "a judged patch in some run": validation.without_patches,
    }
    return said + [f"Left out, without {what}: {listed(names)}." for what, names in left.items() if names]


def _some(count: int, one: str, many: str) -> str:
    return one if count == 1 else many


def _plots(group: Group) -> list[tuple[str, str, str, tuple[Bin, ...]]]:
    """Title, what is to the right, what is up, and the bins of each plot."""
    return [
        ("P(bad)", "predicted", "share of bad patches, 95%", group.p_bad),
        ("AJI", "expected", "true AJI: median, middle 90%", group.aji),
    ]


def _point(value: float) -> float:
    """0–1 as a place on an axis of 200 units."""
    return round(200 * min(max(value, 0.0), 1.0), 1)


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_resource("validation.html.jinja"))


def _resource(name: str) -> str:
    return (importlib.resources.files("wsiseg.evaluate") / "templates" / name).read_text(encoding="utf-8")

"""Patches of a recipe: a texture is drawn, nuclei are laid out on it, painted and weighed.

Each has its own random numbers, from seed, index and its place alone. So the same nuclei, on the same textures,
can be had from two renderers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsiseg.errors import UsageError
from wsiseg.models.files import sha256_of
from wsiseg.run.events import Listener, ignore
from wsiseg.run.schedule import Executor
from wsiseg.synth.dataset import Block
from wsiseg.synth.generate import generate_patches
from wsiseg.synth.hou.tiles import digest_of, list_tiles
from wsiseg.synth.parts import Field, Patch, Renderer, Sampler, Texture, Weighting
from wsiseg.synth.recipe import SynthRecipe, data_of, parse_synth_recipe, resolve_recipe
from wsiseg.synth.textures import load_images, rescale_image
from wsiseg.version import __version__

REVISION = 1
"""Counts up whenever the same seed begins to give other patches."""
_TEXTURE, _SAMPLER, _RENDERER = range(3)


@dataclass(frozen=True)
class Composition:
    """The built parts of a recipe, and the fields that textures are drawn from."""

    sampler: Sampler | None
    renderer: Renderer
    weighting: Weighting
    fields: Sequence[Field]
    suits: Callable[[Field], bool]


class Composed(NamedTuple):
    """A patch with its weight, and which of the fields its texture is of; -1 without."""

    patch: Patch
    weight: float
    field: int


def compose(recipe: SynthRecipe) -> Composition:
    """Build the parts of a recipe whose data have been resolved.

    Raises
    ------
    UsageError
        The data are not what a part expects, or it does not work at the recipe's scale.
    ModelError
        A trained part cannot be read.
    """
    fields = _load_fields(recipe)
    sampler = recipe.sampler.build(recipe.mpp) if recipe.sampler is not None else None
    renderer, weighting = recipe.renderer.build(recipe.mpp), recipe.weighting.build(recipe.mpp)
    return Composition(sampler, renderer, weighting, fields, recipe.renderer.suits)


def make_patch(composition: Composition, seed: int, index: int, side: int) -> Composed:
    """Patch ``index``, of ``side``² pixels, of the endless sequence that ``seed`` names.

    Raises
    ------
    UsageError
        No field suits the renderer.
    """
    texture_rng, sampler_rng, renderer_rng = (
        np.random.default_rng([seed, index, stream]) for stream in (_TEXTURE, _SAMPLER, _RENDERER)
    )
    field, texture = _draw_texture(texture_rng, composition, side)
    layout = composition.sampler(sampler_rng, side, texture) if composition.sampler is not None else None
    patch = composition.renderer(renderer_rng, layout, side, texture)
    return Composed(patch, composition.weighting(patch, texture), field)


def generate_recipe(
    tables: Mapping[str, Any],
    data: Mapping[str, Path],
    out: Path,
    executor: Executor,
    on_event: Listener = ignore,
) -> dict[str, Any]:
    """Make the dataset of a recipe.

    The content is a function of the recipe, its data's content and the libraries' versions: not of the executor,
    the order or interruptions. A stopped call goes on where it was when it is made again.

    Parameters
    ----------
    tables : mapping
        The recipe, as :func:`wsiseg.synth.recipe.read_synth_recipe` gives it.
    data : mapping of str to Path
        Where the data lie that it names.
    out : Path
        The dataset, by custom ``*.zarr``; its format is that of :mod:`wsiseg.synth.dataset`.
    executor : Executor
    on_event : function, optional
        Told of :class:`wsiseg.run.events.PatchesDone`, first of what an earlier call left.

    Returns
    -------
    dict
        ``status`` (complete or unchanged), ``path``, ``patches``, ``computed`` in this call.

    Raises
    ------
    UsageError
        The recipe makes no sense, its data are missing or not what was expected, or ``out`` is something else.
    ModelError
        A trained part cannot be read.
    EnvironmentFault
        The disk or the cluster gives out, or another run writes to ``out``.
    """
    recipe = resolve_recipe(parse_synth_recipe(tables), data)
    digests, textures = _digests(recipe), _list_textures(recipe)
    provenance = _provenance(recipe, tables, digests, textures)
    maker = RecipeMaker(dict(tables), {name: str(path.absolute()) for name, path in data.items()}, digests)
    maker.composition()  # what is wrong with a part is an error before any work
    shape = (recipe.side, recipe.side)
    return generate_patches(maker, out, recipe.count, shape, recipe.mpp, provenance, executor, on_event)


@dataclass(frozen=True)
class RecipeMaker:
    """Makes blocks of a recipe's patches, in whatever process it lands.

    Attributes
    ----------
    tables : dict
    data : dict
        Path by name.
    digests : dict
        SHA-256 of the content by ``section.key``; what has changed since is refused.
    """

    tables: dict[str, Any]
    data: dict[str, str]
    digests: dict[str, str]

    def block(self, indices: range) -> Block:
        recipe, composition = self._resident()
        made = [make_patch(composition, recipe.seed, index, recipe.side) for index in indices]
        return Block(
            np.stack([one.patch.image for one in made]),
            np.stack([one.patch.instances for one in made]),
            np.array([one.weight for one in made], dtype=np.float32),
            np.array([one.field for one in made], dtype=np.int32),
        )

    def composition(self) -> Composition:
        """The built parts; once a process."""
        return self._resident()[1]

    def _resident(self) -> tuple[SynthRecipe, Composition]:
        recipe = resolve_recipe(
            parse_synth_recipe(self.tables), {name: Path(path) for name, path in self.data.items()}
        )
        return recipe, _compose_once(recipe, tuple(sorted(self.digests.items())))


@lru_cache(maxsize=1)
def _compose_once(recipe: SynthRecipe, digests: tuple[tuple[str, str], ...]) -> Composition:
    for name, digest in _digests(recipe).items():
        if digest != dict(digests)[name]:
            raise UsageError(f"{data_of(recipe)[name]}: has changed since this dataset was begun")
    return compose(recipe)


def _draw_texture(rng: np.random.Generator, composition: Composition, side: int) -> tuple[int, Texture | None]:
    """A part of a field at random; fields that the renderer has no use for are passed over."""
    if not composition.fields:
        return -1, None
    for chosen in rng.permutation(len(composition.fields)).tolist():
        field = composition.fields[chosen]
        if composition.suits(field):
            room = np.maximum(np.array(field.image.shape[:2]) - side, 0)
            row, column = rng.integers(0, room + 1).tolist()
            return chosen, Texture(field, row, column, int(rng.integers(8)))
    raise UsageError(f"none of the {len(composition.fields)} textures has nuclei to take colours from")


def _load_fields(recipe: SynthRecipe) -> list[Field]:
    if recipe.textures is None:
        return []
    factor = recipe.textures.mpp / recipe.mpp
    return [
        Field(name, rescale_image(image, factor), recipe.mpp) for name, image in load_images(recipe.textures.data)
    ]


def _list_textures(recipe: SynthRecipe) -> dict[str, str]:
    return list_tiles(recipe.textures.data) if recipe.textures is not None else {}


def _digests(recipe: SynthRecipe) -> dict[str, str]:
    """SHA-256 of each of the recipe's data: of a folder, over the names and contents of all files in it."""
    data = data_of(recipe)
    return {
        name: digest_of(_list_textures(recipe)) if name == "textures.data" else _digest(path)
        for name, path in data.items()
    }


def _digest(path: Path) -> str:
    try:
        if path.is_file():
            return sha256_of(path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = [f"{file.relative_to(path).as_posix()} {sha256_of(file)}" for file in files]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    return hashlib.sha256("\n".join(lines).encode("utf-8", "backslashreplace")).hexdigest()


def _provenance(
    recipe: SynthRecipe, tables: Mapping[str, Any], digests: Mapping[str, str], textures: Mapping[str, str]
) -> dict[str, Any]:
    names = [tables[key]["name"] for key in ("sampler", "renderer", "weighting") if key in tables]
    return {
        "method": " · ".join(names),
        "revision": REVISION,
        "seed": recipe.seed,
        # How many there are is no part of what one is.
        "recipe": {key: value for key, value in tables.items() if key not in ("count", "summary")},
        "data": dict(digests),
        "textures": [{"name": name, "sha256": digest} for name, digest in textures.items()],
        "versions": {
            "wsiseg": __version__,
            **{name: version(name) for name in ("numpy", "scipy", "numba", "pillow", "torch", "zarr")},
        },
    }

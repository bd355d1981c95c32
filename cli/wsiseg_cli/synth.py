"""``wsiseg synth``"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsiseg_cli import options
from wsiseg_cli.interrupt import heed_interrupt
from wsiseg_cli.named import unique
from wsiseg_cli.synthtrain import train
from wsiseg_cli.terminal import mention, note, one_line, tell, tell_json

if TYPE_CHECKING:
    from wsiseg.run.cluster import ClusterOptions
    from wsiseg.run.events import Event


RECIPE = "RECIPE"
"""What stands for any recipe in the overview of the commands."""


class _RecipeGroup(click.Group):
    """A group in which whatever is no command is the recipe of :func:`make`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None or args[0] == RECIPE:
            return RECIPE, make, args
        return super().resolve_command(ctx, args)


@click.group("synth", cls=_RecipeGroup, invoke_without_command=True)
@click.option("--list", "list_all", is_flag=True, help="List the recipes that come with wsiseg.")
@click.pass_context
def command(ctx: click.Context, list_all: bool) -> None:
    """Make synthetic training data: H&E patches whose nuclei are all known.

    \b
    wsiseg synth --list
    wsiseg synth hou --textures TILES --count 10000 -o patches.zarr
    wsiseg synth basla-layered --data masks=LABELS --data textures=TILES -o patches.zarr
    wsiseg synth train adain-small --data annotated=FOLDER -o runs/adain
    """
    if list_all:
        _list()
    elif ctx.invoked_subcommand is None:
        raise click.UsageError("Missing command or recipe; `wsiseg synth --help` names those that there are.")


command.add_command(train)


@command.command(RECIPE)
@click.argument("recipe", metavar="")
@options.output_option("The dataset (zarr), for example patches.zarr.", required=False)
@options.recipe_options("sampler.name=polygons")
@click.option("--count", type=click.IntRange(min=1), help="Number of patches; by default the recipe's.")
@click.option("--seed", type=click.IntRange(min=0), help="Decides what is drawn; by default the recipe's.")
@click.option("--show", is_flag=True, help="Print the recipe instead of making patches.")
@options.cluster_options
@options.json_option
def make(
    recipe: str,
    out: Path | None,
    data: tuple[tuple[str, Path], ...],
    overrides: tuple[str, ...],
    count: int | None,
    seed: int | None,
    show: bool,
    cluster: ClusterOptions,
    as_json: bool,
) -> None:
    """Patches as a recipe composes them: nuclei are laid out, painted and weighed.

    RECIPE is a name of `wsiseg synth --list` or a TOML file (docs/synthesis.md). The same recipe and data give
    the same bytes, whatever the workers. A stopped run goes on where it was when the same command is given again.

    \b
    wsiseg synth basla-layered --data masks=LABELS --data textures=TILES -o patches.zarr
    wsiseg synth basla-layered --data masks=LABELS --data textures=TILES -o other.zarr --set renderer.name=transfer
    wsiseg synth mine.toml --data textures=TILES --count 2000 --seed 1 -o mine.zarr
    """
    from wsiseg.synth.recipe import read_synth_recipe

    given = {"count": count, "seed": seed}
    more = [f"{name}={value}" for name, value in given.items() if value is not None]
    tables, text = read_synth_recipe(recipe, [*overrides, *more])
    if show:
        tell(text)
        return
    if out is None:
        raise click.UsageError("Missing option '-o' / '--output': the dataset.")
    from wsiseg.run.cluster import open_executor
    from wsiseg.synth.compose import generate_recipe

    # On the CPU whatever the device: other arithmetic would make other bytes.
    with open_executor(replace(cluster, device="cpu")) as executor:
        record = generate_recipe(tables, unique(data), out, executor, _quiet if as_json else _show)
    if as_json:
        tell_json(record)
    else:
        mention(f"{one_line(record['path'])}: {record['patches']} patches")


def _list() -> None:
    from wsiseg.synth.recipe import data_of, list_synth_recipes, parse_synth_recipe, read_synth_recipe
    from wsiseg.synth.renderers import RENDERERS
    from wsiseg.synth.samplers import SAMPLERS
    from wsiseg.synth.weighting import WEIGHTINGS
    from wsiseg.train.generators.recipe import list_generator_recipes

    for name in list_synth_recipes():
        recipe = parse_synth_recipe(read_synth_recipe(name)[0])
        tell(f"{name}\n  {recipe.summary}")
        tell(f"  data: {', '.join(sorted({str(path) for path in data_of(recipe).values()}))}")
    for what, names in (("samplers", SAMPLERS), ("renderers", RENDERERS), ("weightings", WEIGHTINGS)):
        tell(f"{what}: {', '.join(names)}")
    tell(f"generators, for `wsiseg synth train`: {', '.join(list_generator_recipes())}")


@command.command("hou")
@click.option(
    "--textures", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of unlabelled H&E tiles of 0.25 µm a pixel (PNG, WebP, TIFF).",
)  # fmt: skip
@click.option("--count", required=True, type=click.IntRange(min=1), help="Number of patches.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Decides what is drawn.")
@options.output_option("The dataset (zarr), for example patches.zarr.")
@click.option(
    "--refiner", type=options.Readable(),
    help="Trained refiner and discriminator: images are refined, and weighted by how real they look.",
)  # fmt: skip
@click.option(
    "--size", default=256, show_default=True, type=click.IntRange(64, 2048), help="Side of a patch, px of 0.25 µm."
)
@click.option("--no-distractors", is_flag=True, help="Do not draw what is no nucleus.")
@options.cluster_options
@options.json_option
def hou(
    textures: Path,
    count: int,
    seed: int,
    out: Path,
    refiner: Path | None,
    size: int,
    no_distractors: bool,
    cluster: ClusterOptions,
    as_json: bool,
) -> None:
    """Patches in the manner of Hou et al. 2019: polygon nuclei on real tissue whose own nuclei were filled in.

    The same textures, seed and options give the same bytes, whatever the workers. A stopped run goes on where it
    was when the same command is given again.
    """
    from wsiseg.run.cluster import open_executor
    from wsiseg.synth.hou.generate import generate_hou
    from wsiseg.synth.hou.patch import HouOptions

    # Rendering and refining are done on the CPU whatever the device: other arithmetic would make other bytes.
    settings = HouOptions(size, not no_distractors)
    with open_executor(replace(cluster, device="cpu")) as executor:
        record = generate_hou(
            textures, out, count, seed, executor,
            options=settings, refiner=refiner, on_event=_quiet if as_json else _show,
        )  # fmt: skip
    if as_json:
        tell_json(record)
    else:
        mention(f"{one_line(record['path'])}: {record['patches']} patches")


@command.command("truth")
@click.option(
    "--textures", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of unlabelled H&E tiles of 0.25 µm a pixel (PNG, WebP, TIFF).",
)  # fmt: skip
@click.option(
    "--scene", "scenes", multiple=True, metavar="NAME",
    help="Such as fibres; may be repeated. By default all, and ordinary patches.",
)  # fmt: skip
@click.option("--count", default=20, show_default=True, type=click.IntRange(min=1), help="Patches of each.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Decides what is drawn.")
@options.output_option("Folder to write: a folder for each scene, with images, labels and own.")
@options.json_option
def truth(textures: Path, scenes: tuple[str, ...], count: int, seed: int, out: Path, as_json: bool) -> None:
    """Rendered patches of one scene each, with their labels as files, to measure what a model finds in it.

    \b
    wsiseg synth truth --textures TILES --scene fibres -o truth
    wsiseg segment truth/fibres/images --mpp 0.25 -o out
    wsiseg evaluate --truth truth/fibres/own --pred out --by-width 0.25
    """
    from wsiseg.synth.textures import load_textures
    from wsiseg.synth.truth import SCENES, write_truth

    record = write_truth(load_textures(textures), out, scenes or SCENES, count, seed)
    if as_json:
        tell_json(record)
    else:
        mention(f"{one_line(record['path'])}: {record['patches']} patches")


@command.command("sheet")
@click.argument("dataset", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.output_option("PNG to write.")
@click.option("--count", default=24, show_default=True, type=click.IntRange(1, 400), help="Patches to show.")
def sheet(dataset: Path, out: Path, count: int) -> None:
    """Draw patches of a dataset, each beside itself with its nuclei outlined, into one picture."""
    from wsiseg.synth.dataset import open_dataset
    from wsiseg.synth.sheet import write_sheet

    write_sheet(open_dataset(dataset), out, count)
    mention(one_line(str(out)))


@command.command("export")
@click.argument("dataset", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--to", "layout", default="snow", show_default=True, type=click.Choice(["snow"]),
    help="snow: Image/seed0000.png and Mask/seed0000.mat with inst_map, inst_uid, inst_centroid.",
)  # fmt: skip
@options.output_option("Folder to write.")
@click.option("--overlay", is_flag=True, help="Also Overlay/seed0000.png: the image with its nuclei outlined.")
@options.json_option
def export(dataset: Path, layout: str, out: Path, overlay: bool, as_json: bool) -> None:
    """Write a dataset as files that other programs read.

    SNOW's layout (Ding et al. 2023) keeps the size of the patches (SNOW's own have 512 pixels a side: `synth hou
    --size 512`) and drops their weights. A stopped export goes on where it was when the command is given again.
    """
    from wsiseg.synth.export import export_snow

    record = export_snow(dataset, out, overlay=overlay, on_event=_quiet if as_json else _show)
    if as_json:
        tell_json(record)
    else:
        mention(f"{one_line(record['path'])}: {record['tiles']} tiles")


def _quiet(event: Event) -> None:
    heed_interrupt()


def _show(event: Event) -> None:
    from wsiseg.run.events import PatchesDone

    heed_interrupt()
    if isinstance(event, PatchesDone):
        note(f"{event.done} of {event.total} patches")

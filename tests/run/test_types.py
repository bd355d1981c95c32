"""Types of nuclei, from a network's map to every file: counted right, named right, the same for any tile."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from wsiseg_cli.group import cli  # noqa: E402
from wsiseg_cli.main import main  # noqa: E402

from wsiseg.core.geometry import Box, Scale, Window  # noqa: E402
from wsiseg.core.nuclei import Nuclei  # noqa: E402
from wsiseg.errors import ModelError, UsageError  # noqa: E402
from wsiseg.interop.geojson import type_classes  # noqa: E402
from wsiseg.models.decoders import build_decoder  # noqa: E402
from wsiseg.models.engine.mirrors import mean_of_mirrors  # noqa: E402
from wsiseg.models.foreign.manifest import read_manifest  # noqa: E402
from wsiseg.models.heads import HEADS  # noqa: E402
from wsiseg.models.registry import load_segmenter  # noqa: E402
from wsiseg.report.overlay import OUTLINE  # noqa: E402
from wsiseg.results.nuclei import ARTEFACT, ATTRIBUTES, iter_nuclei, read_metadata, read_nuclei  # noqa: E402
from wsiseg.slide import open_slide  # noqa: E402
from wsiseg.testing import write_slide  # noqa: E402
from wsiseg.testing.foreign import toml  # noqa: E402
from wsiseg.testing.networks import thin  # noqa: E402
from wsiseg.testing.nucleifile import NucleiWriter  # noqa: E402

Segment = Callable[..., Path]
NAMES = ["unknown", "pale", 'Krebs "Ä"']
MANIFEST: dict[str, Any] = {
    "format": 1,
    "name": "typed",
    "file": "typed.pt",
    "licence": "CC0-1.0",
    "mpp": 0.5,
    "input": {"range": [0.0, 1.0], "stride_px": 8, "reach_px": 8},
    "head": {
        "name": "hover",
        "maps": {
            "np": {"channels": [0, 1]},
            "hv": {"channels": [2, 3]},
            "tp": {"channels": [4, 5, 6], "types": NAMES},
        },
    },
    "decoder": {"name": "hover", "parameters": {"max_diameter_um": 16.0}},
}
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")]


class Typed(nn.Module):
    """Dark is a nucleus; whether more is dark on the left or on the right is how far its centre lies; of two types
    the second is the darker."""

    def __init__(self) -> None:
        super().__init__()
        side = torch.linspace(-1, 1, 17).sign()
        kernel = torch.stack([side.expand(17, 17), side.expand(17, 17).T])[:, None]
        self.register_buffer("kernel", -kernel / 72)

    def forward(self, x: Tensor) -> Tensor:
        grey = x.mean(1, keepdim=True)
        logit = 30 * (0.62 - grey)
        distances = nn.functional.conv2d(logit.sigmoid(), self.kernel, padding=8)
        darker = 30 * (0.45 - grey)
        return torch.cat([-logit, logit, distances, -logit, logit - darker, logit + darker], dim=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with names of types, and its network."""
    folder = tmp_path_factory.mktemp("model")
    torch.jit.trace(Typed(), torch.zeros(1, 3, 32, 32)).save(str(folder / "typed.pt"))
    (folder / "typed.toml").write_text(toml(MANIFEST), "utf-8")
    return folder / "typed.toml"


def with_map(table: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with another table for the map of types."""
    maps = {**MANIFEST["head"]["maps"], "tp": table}
    return {**MANIFEST, "head": {"name": "hover", "maps": maps}}


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "a.svs"
    write_slide(path, width=1400, height=1200, seed=3, layout="seams", seam_px=512)
    return path


def segment(slide: Path, out: Path, model: object, *arguments: str) -> Path:
    """The folder of a slide that ``wsiseg segment`` has written, in this process."""
    handler = signal.getsignal(signal.SIGTERM)
    words = ["segment", str(slide), "-o", str(out), "-w", "0", "--device", "cpu", "-m", str(model), *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["wsiseg", *words])
        with pytest.raises(SystemExit) as end:
            main()
    signal.signal(signal.SIGTERM, handler)
    assert not end.value.code
    return out / slide.stem


@pytest.fixture(scope="module")
def typed(slide: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segment(slide, tmp_path_factory.mktemp("typed"), model)


# --- what the type of a nucleus is ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "number", "share"),
    [
        ({1: 60, 2: 140}, 2, 0.7),
        ({0: 150, 2: 20, 1: 30}, 1, 0.15),  # the background says nothing of a nucleus …
        ({0: 200}, 0, 1.0),  # … unless there is nothing else
        ({2: 100, 1: 100}, 1, 0.5),
    ],
)
def test_the_likeliest_type_of_most_pixels(pixels: dict[int, int], number: int, share: float) -> None:
    """A nucleus of 10 × 20 pixels, filled row by row with pixels of types."""
    likeliest = np.concatenate([np.full(count, kind) for kind, count in pixels.items()]).reshape(10, 20)
    raw = {"np": torch.zeros(1, 2, 40, 60), "hv": torch.zeros(1, 2, 40, 60), "tp": torch.zeros(1, 3, 40, 60)}
    raw["np"][:, 0], raw["np"][:, 1, 15:25, 20:40] = 0.1, 9.0
    raw["hv"][0, 0, 15:25, 20:40] = torch.linspace(-1, 1, 20)
    raw["hv"][0, 1, 15:25, 20:40] = torch.linspace(-1, 1, 10)[:, None]
    raw["tp"][0, 2] = 0.5  # of what surrounds it
    raw["tp"][0, :, 15:25, 20:40] = torch.from_numpy(np.eye(3, dtype=np.float32)[likeliest]).permute(2, 0, 1)
    head = HEADS["hover"]
    nuclei = head.decode([value[0].numpy() for value in head.activate(raw)], build_decoder("hover"))
    assert nuclei.areas().tolist() == [200.0]
    assert nuclei.columns["type"].tolist() == [number]
    assert nuclei.columns["type_prob"].tolist() == pytest.approx([share])


def test_types_are_numbered_unless_named() -> None:
    head = HEADS["hover"]
    assert head.type_names({"np": 2, "hv": 2, "tp": 4}) == ("no type", "type 1", "type 2", "type 3")
    assert head.type_names({"np": 2, "hv": 2}) == ()
    assert HEADS["offsets"].type_names({"foreground": 1, "offsets": 2}) == ()


def test_mirrors_average_probabilities_of_types() -> None:
    """Sure views outweigh unsure ones, whichever comes first."""
    head = HEADS["hover"]

    def run(images: list[np.ndarray]) -> list[tuple[torch.Tensor, ...]]:
        logits = torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 3.0], [0.0, 0.0, 3.0], [0.0, 1.0, 0.5]])
        found = []
        for values in logits:
            raw = {"np": torch.zeros(1, 2, 4, 4), "hv": torch.zeros(1, 2, 4, 4)}
            raw["tp"] = values.view(1, 3, 1, 1).expand(1, 3, 4, 4)
            found.append(tuple(value[0] for value in head.activate(raw)))
        return found

    probabilities = mean_of_mirrors(run, np.zeros((4, 4, 3), np.uint8), head)[2].numpy()
    assert probabilities.shape == (3, 4, 4)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-6)
    assert (run([])[0][2].argmax(dim=0) == 1).all()
    assert (probabilities.argmax(axis=0) == 2).all()


# --- manifests ------------------------------------------------------------------------------------------------


def test_names_are_the_manifests(model: Path, tmp_path: Path) -> None:
    assert read_manifest(model).types == tuple(NAMES)
    assert load_segmenter(str(model), device="cpu").describe()["types"] == NAMES
    path = tmp_path / "typed.toml"
    path.write_text(toml(with_map({"channels": [4, 5, 6]})))
    assert read_manifest(path).types == ("no type", "type 1", "type 2")
    path.write_text(toml(with_map({"output": "types", "types": ["a", "b", "c", "d"]})))
    manifest = read_manifest(path)
    assert manifest.interface is not None
    assert manifest.interface.config.outputs["tp"] == 4  # without a list of channels as many as names
    maps = {name: MANIFEST["head"]["maps"][name] for name in ("np", "hv")}
    path.write_text(toml({**MANIFEST, "head": {"name": "hover", "maps": maps}}))
    assert read_manifest(path).types == ()


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"channels": [4, 5, 6], "types": ["a", "b"]}, "types names 2 types for 3 channels: expected one for each"),
        ({"channels": [4, 5], "types": ["a", "b", "c"]}, "types names 3 types for 2 channels"),
        ({"channels": [4, 5, 6], "types": ["a", "b", "b"]}, "expected two or more names, each once"),
        ({"types": ["a"]}, "expected a list of two or more names"),
        ({"channels": [4, 5, 6], "types": ["a", "b", 3]}, "expected a list of two or more names"),
        ({"channels": [4, 5, 6], "types": ["a", " ", "c"]}, "expected a list of two or more names"),
        ({"channels": [4, 5, 6], "types": ["a", "b\u001b[2J", "c"]}, "expected two or more names"),
        ({"channels": [4, 5, 6], "types": "a"}, "expected a list of two or more names"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, table: dict[str, Any], reason: str) -> None:
    path = tmp_path / "typed.toml"
    path.write_text(toml(with_map(table)))
    with pytest.raises(ModelError, match=reason) as caught:
        read_manifest(path)
    assert re.search("head.maps.tp(:|[.]types)", str(caught.value))


def test_only_types_have_names(tmp_path: Path) -> None:
    path = tmp_path / "typed.toml"
    maps = {**MANIFEST["head"]["maps"], "np": {"channels": [0, 1], "types": ["a", "b"]}}
    path.write_text(toml({**MANIFEST, "head": {"name": "hover", "maps": maps}}))
    with pytest.raises(ModelError, match=r"head.maps.np.types: only a map of types"):
        read_manifest(path)


def checkpoint(folder: Path, **changes: Any) -> Path:
    """The manifest of a published checkpoint with three types, as written; None leaves a key out."""
    torch.save({"desc": thin("hovernet-fast").state_dict()}, folder / "h.tar")
    content = {"format": 1, "name": "pannuke", "file": "h.tar", "licence": "CC0-1.0", "mpp": 0.3}
    content |= {"head": {"maps": {"tp": {"types": NAMES}}}, **changes}
    path = folder / "h.toml"
    path.write_text(toml({key: value for key, value in content.items() if value is not None}), "utf-8")
    return path


def test_a_manifest_names_a_published_checkpoint_and_its_types(tmp_path: Path) -> None:
    decoder = {"parameters": {"min_area_um2": 4.0}}
    segmenter = load_segmenter(str(checkpoint(tmp_path, decoder=decoder)), device="cpu", precision="fp32")
    bare = load_segmenter(str(tmp_path / "h.tar"), device="cpu", precision="fp32")
    found, expected = segmenter.describe(), bare.describe()
    assert (segmenter.name, found["licence"], segmenter.mpp) == ("pannuke", "CC0-1.0", 0.3)
    assert (found["types"], expected["types"]) == (NAMES, ["no type", "type 1", "type 2"])
    assert found["decoder"]["parameters"]["min_area_um2"] == 4.0
    assert all(found[key] == expected[key] for key in ("network", "head", "weights_sha256", "precision"))
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for a, b in zip(segmenter.maps([image])[0], bare.maps([image])[0], strict=True):
        assert np.array_equal(a, b)
    unnamed = load_segmenter(str(checkpoint(tmp_path, head=None)), device="cpu")
    assert unnamed.describe()["types"] == expected["types"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head": {"maps": {"tp": {"types": ["a", "b"]}}}}, "types names 2 types, the network has 3"),
        ({"head": {"maps": {"tp": {}}}}, "head.maps.tp.types: is missing; expected a list of two or more names"),
        (
            {"head": {"maps": {"tp": {"types": NAMES, "channels": [0, 1, 2]}}}},
            "tp.channels: unknown key; there",
        ),
        ({"head": {"maps": {"np": {}}}}, r"head.maps.np: unknown key.*there are tp"),
        ({"head": {"name": "star"}}, "a published checkpoint has the head 'hover'"),
        ({"input": {"stride_px": 8}}, "whose input is known"),
        ({"licence": None}, "licence: is missing"),
        ({"sha256": "0" * 64}, "damaged or another file"),
    ],
)
def test_manifests_that_do_not_fit_a_checkpoint(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = checkpoint(tmp_path, **changes)
    with pytest.raises(ModelError, match=reason) as caught:
        load_segmenter(str(path), device="cpu")
    assert "h.toml" in str(caught.value)


def test_the_documented_manifest_of_a_checkpoint_is_one(tmp_path: Path, repository: Path) -> None:
    page = (repository / "docs" / "models.md").read_text("utf-8")
    example = next(part for part in page.split("```toml\n") if part.startswith("# hovernet")).partition("```")[0]
    (tmp_path / "h.toml").write_text(example, "utf-8")
    manifest = read_manifest(tmp_path / "h.toml")
    assert manifest.interface is None
    assert len(manifest.types) == 6
    assert manifest.decoder == build_decoder("hover")


def test_names_for_other_channels_than_the_network_has(model: Path, tmp_path: Path) -> None:
    (tmp_path / "typed.pt").write_bytes((model.parent / "typed.pt").read_bytes())
    path = tmp_path / "typed.toml"
    path.write_text(toml(with_map({"channels": [4, 5, 6, 7], "types": ["a", "b", "c", "d"]})))
    with pytest.raises(ModelError, match="has 7 channels; the map 'tp' is to have 4"):
        load_segmenter(str(path), device="cpu")


# --- files ----------------------------------------------------------------------------------------------------


def squares(types: list[int]) -> Nuclei:
    corners = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], dtype=np.float64)
    vertices = np.concatenate([corners + 10 * n for n in range(len(types))]) if types else np.empty((0, 2))
    columns = {name: np.ones(len(types), dtype=kind) for name, kind in ATTRIBUTES.items()}
    nuclei = Nuclei(vertices, np.arange(len(types) + 1, dtype=np.int64) * 4, columns)
    shares = np.linspace(0.5, 1, len(types), dtype=np.float32)
    return nuclei.with_columns(type=np.array(types, dtype=np.int16), type_prob=shares)


def test_a_file_holds_names_and_gives_numbers(tmp_path: Path) -> None:
    path = tmp_path / "nuclei.parquet"
    with NucleiWriter(path, {"slide": "x"}, types=NAMES) as writer:
        writer.write(squares([2, 2, 0]))
        writer.write(squares([1, 2]))  # another dictionary in the file
    assert read_metadata(path)["types"] == NAMES
    assert pq.read_table(path).column("type").to_pylist() == [NAMES[n] for n in (2, 2, 0, 1, 2)]
    found = read_nuclei(path)
    assert list(found.columns) == ["id", "x", "y", *ATTRIBUTES, "type", "type_prob"]
    assert found.columns["type"].dtype == np.int16
    assert found.columns["type"].tolist() == [2, 2, 0, 1, 2]
    assert [part.columns["type"].tolist() for part in iter_nuclei(path, columns=["type"])] == [[2, 2, 0], [1, 2]]


def test_a_file_without_nuclei_still_has_the_types(tmp_path: Path) -> None:
    path = tmp_path / "nuclei.parquet"
    with NucleiWriter(path, {}, types=NAMES):
        pass
    found = read_nuclei(path)
    assert found.columns["type"].dtype == np.int16
    assert len(found) == 0


def test_types_without_a_name_are_refused(tmp_path: Path) -> None:
    writer = NucleiWriter(tmp_path / "n.parquet", {}, types=NAMES)
    with pytest.raises(ValueError, match="a nucleus has type 3; the names are"), writer:
        writer.write(squares([0, 3]))
    assert list(tmp_path.iterdir()) == []


def test_types_that_a_file_does_not_declare(tmp_path: Path) -> None:
    path = tmp_path / "n.parquet"
    with NucleiWriter(path, {}, types=NAMES) as writer:
        writer.write(squares([1, 2]))
    about = {key: value for key, value in pq.read_metadata(path).metadata.items() if key != b"ARROW:schema"}
    table = pq.read_table(path)
    table = table.set_column(table.schema.get_field_index("type"), "type", [["pale", "other"]])
    pq.write_table(table.replace_schema_metadata(about), path)
    with pytest.raises(UsageError, match="types of nuclei other than those that it declares"):
        read_nuclei(path)


def test_every_type_has_a_class_and_neighbours_differ() -> None:
    names = [f"t{n}" for n in range(20)]
    classes = type_classes(names)
    assert [classes[n].name for n in range(20)] == names
    colours = [classes[n].color for n in range(7)]
    assert len(set(colours)) == 7


# --- from end to end ------------------------------------------------------------------------------------------


def test_types_reach_every_file(typed: Path) -> None:
    found = geopandas.read_parquet(typed / "nuclei.parquet")
    counts = found["type"].value_counts()
    assert set(counts.index) <= set(NAMES)
    assert counts["pale"] > 20
    assert counts[NAMES[2]] > 20
    assert ((found["type_prob"] > 0) & (found["type_prob"] <= 1)).all()
    record = json.loads((typed / "slide.json").read_text("utf-8"))
    assert record["types"] == {name: int(counts.get(name, 0)) for name in NAMES}
    assert list(record["types"]) == NAMES
    assert sum(record["types"].values()) == record["nuclei"]
    assert record["specification"]["model"]["types"] == NAMES
    report = (typed.parent / "report.html").read_text("utf-8")
    assert f"pale {counts['pale']:,}" in report


def test_qupath_gets_classes(typed: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["export", str(typed), "--to", "geojson", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    collection = json.loads((tmp_path / "a.geojson").read_text("utf-8"))
    expected = read_nuclei(typed / "nuclei.parquet")
    classes = type_classes(NAMES)
    for feature, number, share in zip(
        collection["features"], expected.columns["type"], expected.columns["type_prob"], strict=True
    ):
        given = feature["properties"]["classification"]
        assert given == {"name": NAMES[number], "color": list(classes[int(number)].color)}
        measured = feature["properties"]["measurements"]
        assert measured["type_prob"] == pytest.approx(share, abs=1e-4)
        assert "type" not in measured


def test_an_overlay_tells_types_by_colours(typed: Path, tmp_path: Path) -> None:
    out = tmp_path / "look.png"
    result = CliRunner().invoke(cli, ["overlay", str(typed), "--roi", "0,0,400,400", "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert [line.split()[-1] for line in result.output.splitlines()[:-1]] == [
        f"#{bytes(item.color).hex()}" for item in type_classes(NAMES).values()
    ]
    pixels = {tuple(colour) for colour in np.asarray(Image.open(out)).reshape(-1, 3)}
    nuclei = read_nuclei(typed / "nuclei.parquet", Box(20, 20, 380, 380))
    for number in np.unique(nuclei.columns["type"]):
        assert type_classes(NAMES)[int(number)].color in pixels
    assert OUTLINE not in pixels


def test_quip_tables_are_what_they_were(typed: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["export", str(typed), "--to", "quip-csv", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (table,) = (tmp_path / "a_polygon" / "a.svs").glob("*-features.csv")
    assert table.read_text().splitlines()[0] == "AreaInPixels,PhysicalSize,Polygon"


@pytest.mark.parametrize("options", [(), ("--mirrors", "--roi", "300,200,900,700")])
def test_tiles_do_not_change_types(
    slide: Path, model: Path, typed: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    whole = segment(slide, tmp_path / "whole", model, *options) if options else typed
    tiled = segment(slide, tmp_path / "tiled", model, "--tile", "256", *options)
    first, second = (read_nuclei(folder / "nuclei.parquet") for folder in (whole, tiled))
    assert len(first) == len(second)
    rows = []
    for nuclei in (first, second):
        order = np.lexsort((nuclei.columns["x"], nuclei.columns["y"]))
        rows.append(np.stack([nuclei.columns[n][order] for n in ("x", "y", "type", "type_prob")]))
    np.testing.assert_array_equal(rows[0], rows[1])


@torch.inference_mode()
def undecided(slide: Path) -> nn.Module:
    """A HoVer-Net of random weights that finds something of each kind: none of its logits is mostly the highest."""
    network = thin("hovernet-fast")
    with open_slide(slide) as opened:
        pixels = opened.read_window(Window(0, 0, 256, 256), Scale(1.0))
    maps = network(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1)
    for name in ("np", "tp"):
        network.decoder[name].u0.conv.bias -= maps[name].flatten(2).median(2).values[0]
    return network


@pytest.mark.slow
def test_published_weights_give_numbered_types(tmp_path: Path) -> None:
    write_slide(tmp_path / "a.svs", width=300, height=260, seed=3, layout="dense")
    torch.save({"desc": undecided(tmp_path / "a.svs").state_dict()}, tmp_path / "h.tar")
    folder = segment(tmp_path / "a.svs", tmp_path / "out", tmp_path / "h.tar", "--precision", "fp32", "--all")
    names = ["no type", "type 1", "type 2"]
    record = json.loads((folder / "slide.json").read_text())
    assert list(record["types"]) == names
    assert sum(record["types"].values()) == record["nuclei"]
    assert min(record["types"]["type 1"], record["types"]["type 2"]) > 0
    counts = geopandas.read_parquet(folder / "nuclei.parquet")["type"].value_counts()
    assert {name: int(counts.get(name, 0)) for name in names} == record["types"]


def test_a_slide_without_nuclei_has_no_types(model: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.full((300, 300, 3), 245, np.uint8)).save(tmp_path / "white.png")
    folder = segment(tmp_path / "white.png", tmp_path / "out", model, "--mpp", "0.5", "--all")
    assert json.loads((folder / "slide.json").read_text())["types"] == dict.fromkeys(NAMES, 0)
    assert len(read_nuclei(folder / "nuclei.parquet")) == 0


def test_a_model_without_types_writes_no_column(slide: Path, tmp_path: Path) -> None:
    folder = segment(slide, tmp_path, "classical")
    file = pq.ParquetFile(folder / "nuclei.parquet")
    assert file.schema_arrow.names == ["id", "geometry", "bbox", "x", "y", *ATTRIBUTES, ARTEFACT]
    assert set(read_metadata(folder / "nuclei.parquet")) == {"slide", "mpp", "downsample", "format", "artefacts"}
    record = json.loads((folder / "slide.json").read_text())
    assert "types" not in record
    assert "types" not in record["specification"]["model"]
    assert "Types of nuclei" not in (tmp_path / "report.html").read_text()
    result = CliRunner().invoke(cli, ["export", str(folder), "--to", "geojson"])
    assert result.exit_code == 0
    features = json.loads((tmp_path / "exports" / "a.geojson").read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} == {"Nucleus"}


def test_models_show_names_the_types(model: Path, tmp_path: Path) -> None:
    torch.save({"desc": thin("hovernet-fast").state_dict()}, tmp_path / "h.tar")
    for path, names in ((model, NAMES), (tmp_path / "h.tar", ["no type", "type 1", "type 2"])):
        result = CliRunner().invoke(cli, ["models", "show", str(path), "--json"], catch_exceptions=False)
        assert json.loads(result.output)["types"] == names

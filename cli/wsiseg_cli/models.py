"""``wsiseg models``"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from wsiseg_cli import options
from wsiseg_cli.terminal import one_line, tell, tell_json


@click.group("models", invoke_without_command=True)
@click.option("--speed", "measured", is_flag=True, help="Measure how fast each model is on this machine.")
@options.json_option
@click.pass_context
def command(ctx: click.Context, measured: bool, as_json: bool) -> int:
    """List the segmentation models that are installed, with licence, training data, scores, speed and limits."""
    if ctx.invoked_subcommand is not None:
        return 0
    from wsiseg.models.registry import DEFAULT_MODEL, list_models

    cards = [card.to_dict() for card in list_models()]
    for card in cards:
        card["default"] = card["name"] == DEFAULT_MODEL
        if measured:
            card["measured"] = _measured(card["name"], "auto")
    if as_json:
        tell_json(cards)
        return 0
    for card in cards:
        _print_card(card)
    return 0


@command.command("show")
@click.argument("model", metavar="NAME|FILE")
@click.option("--speed", "measured", is_flag=True, help="Measure how fast it is on this machine.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "openvino"]),
    default="auto",
    show_default=True,
    help="What computes the network for --speed.",
)
@options.json_option
def show(model: str, measured: bool, engine: str, as_json: bool) -> int:
    """Print all that is known of a model: its card, network, head, decoder, file and SHA-256.

    NAME is one of `wsiseg models`; FILE holds weights (.safetensors, .pt, .pth), a published checkpoint of
    HoVer-Net (.tar) or a manifest (.toml).
    """
    from wsiseg.models.registry import describe_model

    described = describe_model(model)
    if measured:
        described["card"]["measured"] = _measured(model, engine)
    if as_json:
        tell_json(described)
        return 0
    card = described.pop("card")
    _print_card(card)
    if card.get("recipe"):
        tell(f"  recipe       {one_line(str(card['recipe']))}")
    for key, value in described.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            tell(f"  {one_line(key):<12} {one_line(text)}")
    return 0


def _measured(model: str, engine: str) -> dict[str, Any]:
    from wsiseg.models.engine.speed import measure_speed
    from wsiseg.models.registry import load_segmenter

    return measure_speed(load_segmenter(model, engine=engine)).to_dict()


def _print_card(card: Mapping[str, Any]) -> None:
    tell(one_line(card["name"]) + ("  (default)" if card.get("default") else ""))
    tell(f"  {one_line(card['summary'])}")
    tell(f"  licence      {one_line(card['licence'])}")
    tell(f"  trained on   {one_line('; '.join(card['data'])) or 'nothing'}")
    for data, scores in (card["scores"] or {}).items():
        tell(f"  {one_line(data)}: " + ", ".join(f"{one_line(name)} {value:.3f}" for name, value in scores.items()))
    for where, value in (card["speed"] or {}).items():
        tell(f"  speed        {value:.1f} Mpx/s ({one_line(where)})")
    if "measured" in card:
        found = card["measured"]
        where = f"{found['on']}; an image of {found['side_px']}², network and decoder"
        tell(f"  speed here   {found['mpx_per_s']:.1f} Mpx/s ({one_line(where)})")
    for limit in card["limits"]:
        tell(f"  limit: {one_line(limit)}")

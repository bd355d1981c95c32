"""``wsiseg models``"""

from __future__ import annotations

import json

import click

from wsiseg_cli import options


@click.command("models")
@options.json_option
def command(as_json: bool) -> int:
    """List the segmentation models that are installed, with licence, training data and measured scores."""
    from wsiseg.models.registry import DEFAULT_MODEL, list_models

    cards = list_models()
    if as_json:
        click.echo(json.dumps([card.to_dict() for card in cards], indent=1, ensure_ascii=False))
        return 0
    for card in cards:
        default = "  (default)" if card.name == DEFAULT_MODEL else ""
        click.echo(f"{card.name}{default}\n  {card.summary}")
        click.echo(f"  {card.mpp:g} mpp · licence {card.licence} · trained on: {card.training_data or 'nothing'}")
        if card.scores:
            click.echo("  " + ", ".join(f"{name} {value:.3f}" for name, value in card.scores.items()))
    return 0

"""``wsiseg models``"""

from __future__ import annotations

import json

import click

from wsiseg_cli import options


@click.command("models")
@options.json_option
def command(as_json: bool) -> int:
    """List the segmentation models that are installed, with licence, training data, measured scores and limits."""
    from wsiseg.models.registry import DEFAULT_MODEL, list_models

    cards = list_models()
    if as_json:
        click.echo(json.dumps([card.to_dict() for card in cards], indent=1, ensure_ascii=False))
        return 0
    for card in cards:
        click.echo(card.name + ("  (default)" if card.name == DEFAULT_MODEL else ""))
        click.echo(f"  {card.summary}")
        click.echo(f"  licence      {card.licence}")
        click.echo(f"  trained on   {'; '.join(card.data) or 'nothing'}")
        for data, scores in (card.scores or {}).items():
            click.echo(f"  {data}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        for limit in card.limits:
            click.echo(f"  limit: {limit}")
    return 0

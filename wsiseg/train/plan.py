"""What a recipe trains: its network, head, decoder, targets and loss, checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsiseg.core.tables import parse_table, suggestion
from wsiseg.errors import ModelError, UsageError
from wsiseg.models.decoders import Decoder, build_decoder, decoder_name
from wsiseg.models.heads import Head, head_by_name
from wsiseg.models.networks import build_network, network_config, network_names
from wsiseg.models.networks.encoder_unet import EncoderUNet, EncoderUNetConfig, load_encoder_weights
from wsiseg.models.networks.sizes import input_side
from wsiseg.models.registry import WEIGHTS
from wsiseg.models.weightfile import Named, load_weights
from wsiseg.train.losses import HEAD_LOSSES
from wsiseg.train.settings import Recipe
from wsiseg.train.targets import HEAD_TARGETS


@dataclass(frozen=True)
class Plan:
    """The parts of a recipe that compute.

    Attributes
    ----------
    network : Named
        Name and all parameters, for the weight file.
    config
        Its configuration.
    head : Head
    decoder : Decoder
    targets, loss
        Of :data:`wsiseg.train.targets.HEAD_TARGETS` and :data:`wsiseg.train.losses.HEAD_LOSSES`.
    """

    network: Named
    config: Any
    head: Head
    decoder: Decoder
    targets: Any
    loss: Any

    @property
    def decoder_named(self) -> Named:
        return Named(decoder_name(self.decoder), asdict(self.decoder))


def plan_training(recipe: Recipe) -> Plan:
    """The plan of a recipe.

    Raises
    ------
    UsageError
        A name or parameter that is not known, or parts that do not fit each other.
    """
    name = recipe.head.name
    if name not in HEAD_TARGETS:
        known = suggestion(name, HEAD_TARGETS)
        raise UsageError(f"head.name: got {name!r}; expected a head that can be trained{known}")
    head = head_by_name(name)
    config, network = _network(recipe, head)
    if not head.fits(config.outputs):
        raise UsageError(
            f"head.name: got {name!r}, whose maps are {head.outputs}; "
            f"but the network {network.name!r} has {config.outputs}"
        )
    decoder = _decoder(recipe, head)
    if recipe.start.encoder and not isinstance(config, EncoderUNetConfig):
        raise UsageError(
            f"start.encoder: the network {network.name!r} has no encoder that a classifier's weights fit; "
            f"expected one of {', '.join(name for name in network_names() if name.startswith('unet-'))}"
        )
    _check_crop(recipe, config)
    parameters = dict(recipe.head.parameters)
    if name == "star":
        rays = config.outputs["rays"]
        if parameters.setdefault("rays", rays) != rays:
            raise UsageError(f"head.rays: got {parameters['rays']!r}; expected the network's, {rays}, or nothing")
    targets = parse_table(HEAD_TARGETS[name], parameters, "head")
    return Plan(network, config, head, decoder, targets, parse_table(HEAD_LOSSES[name], recipe.loss, "loss"))


def fresh_network(plan: Plan, recipe: Recipe) -> nn.Module:
    """The network that a training begins with: fresh weights by the seed, all or in part those of ``start``.

    Raises
    ------
    ModelError
        The weights to start from do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build_network(plan.network.name, plan.network.parameters)
    if recipe.start.weights:
        _load(network, _start_state(recipe.start.weights), recipe.start.weights)
    if isinstance(network, EncoderUNet) and recipe.start.encoder:
        load_encoder_weights(network, load_weights(Path(recipe.start.encoder)).state)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _network(recipe: Recipe, head: Head) -> tuple[Any, Named]:
    name, given = recipe.network.name, dict(recipe.network.parameters)
    if name not in network_names():
        raise UsageError(f"network.name: got {name!r}; expected a network{suggestion(name, network_names())}")
    try:
        config = network_config(name, given)
        if "head" in asdict(config) and "head" not in given:
            config = network_config(name, {**given, "head": head.name})
    except ModelError as error:
        raise UsageError(f"network: {error}") from error
    return config, Named(name, {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(config).items()})


def _decoder(recipe: Recipe, head: Head) -> Decoder:
    given = {"mpp": recipe.data.mpp, **recipe.decoder}
    name = given.pop("name", head.decoders[0])
    if name not in head.decoders:
        known = suggestion(name, head.decoders)
        raise UsageError(f"decoder.name: got {name!r}; expected one that reads the head {head.name!r}{known}")
    if given["mpp"] != recipe.data.mpp:
        raise UsageError(f"decoder.mpp: got {given['mpp']}; expected data.mpp, {recipe.data.mpp}, or nothing")
    try:
        decoder: Decoder = build_decoder(name, given)
    except ModelError as error:
        raise UsageError(f"decoder: {error}") from error
    return decoder


def _check_crop(recipe: Recipe, config: Any) -> None:
    crop = recipe.optimise.crop
    try:
        config.output_shape(crop, crop)
    except ValueError as error:
        fitting = next((side for side in range(crop, 8192) if _fits(config, side)), input_side(config, 1)[0])
        raise UsageError(f"optimise.crop: got {crop}; {error}. Next larger: {fitting}") from error


def _fits(config: Any, side: int) -> bool:
    try:
        config.output_shape(side, side)
    except ValueError:
        return False
    return True


def _start_state(start: str) -> Mapping[str, Tensor]:
    path = WEIGHTS / f"{start}.safetensors"
    return load_weights(path if path.is_file() else Path(start)).state


def _load(network: nn.Module, state: Mapping[str, Tensor], start: str) -> None:
    where = f"start.weights: {start} do not fit the network"
    expected, found = set(network.state_dict()), set(state)
    if expected != found:
        missing, extra = sorted(expected - found)[:3], sorted(found - expected)[:3]
        raise ModelError(f"{where}: missing {missing or 'none'}, unexpected {extra or 'none'}")
    try:
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except RuntimeError as error:
        raise ModelError(f"{where}: {error}") from error

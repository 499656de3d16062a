"""What the decoders of other systems are given in training: styles and the true motion."""

from typing import Any

import torch
from torch import Tensor

from baselines.conditioning import ConditionedDecoder, style_weights
from jambatalk import JambaTalk


def given_of(model: JambaTalk, batch: dict[str, Any]) -> dict[str, Tensor]:
    """The arguments `styles` and `motion` of `JambaTalk.hidden` that the decoder uses.

    batch: of `data_loader.collate`, on the model's device.
    """
    decoder = model.layers[0]
    if not isinstance(decoder, ConditionedDecoder):
        return {}
    template = batch["template"]
    given = {"styles": style_weights(batch["subjects"], model.config).to(template.device)}
    if decoder.needs_motion:
        with torch.autocast(template.device.type, enabled=False):
            given["motion"] = true_motion(model, batch)
    return given


def true_motion(model: JambaTalk, batch: dict[str, Any]) -> Tensor:
    """The motion (B, T, M) of the vertex head that is nearest to the truth."""
    units = model.config.units_per_metre
    if "curves" in batch:
        return model.head.motion_of_curves(batch["curves"], batch["basis"] / units)
    return model.head.motion_of_offsets((batch["vertices"] - batch["template"][:, None]) / units)


def own_loss_name(model: JambaTalk) -> str:
    """The name of the loss that the decoder returns; its weight is w_<name> of `TrainConfig`."""
    decoder = model.layers[0]
    return decoder.own_loss if isinstance(decoder, ConditionedDecoder) else "balance"


def set_progress(model: JambaTalk, share: float) -> None:
    """Tell the decoder which share of the run's steps is done, 0 to 1."""
    if isinstance(decoder := model.layers[0], ConditionedDecoder):
        decoder.set_progress(share)

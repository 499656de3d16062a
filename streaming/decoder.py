"""The decoder frame by frame: Mamba layers keep their state, attention a bounded past.

A step also computes the frames behind its own. The next step, which has heard more, computes these
frames again, and its own are a mean of both: the motion at joins is like that inside steps.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from jambatalk import JambaTalk
from layers.transformer import TransformerLayer

JOIN = (0.4, 0.2)  # weight of what the step before expected in the first frames of a step


class DecoderState(NamedTuple):
    """What the layers keep of the frames before a step, in their order; None before the first.

    expected: (1, m, D) the head's input for the next frames, as many as `JOIN` has weights or the
    look-ahead reaches; None where it reaches none.
    """

    layers: tuple[Any, ...]
    expected: Tensor | None = None


class LiveDecoder:
    """Encoder features to the head's input, a few frames at a time.

    reach: frames before a step to which attention reaches.
    """

    def __init__(self, model: JambaTalk, reach: int) -> None:
        self.model, self.reach = model.eval(), reach
        attention = [i for i, x in enumerate(model.layers) if isinstance(x, TransformerLayer)]
        self.last_attention = attention[-1] if attention else None

    def start(self) -> DecoderState:
        """The state before the first frame."""
        return DecoderState((None,) * len(self.model.layers))

    @torch.inference_mode()
    def step(self, features: Tensor, state: DecoderState, n: int) -> tuple[Tensor, DecoderState]:
        """The head's input (1, n, D) of the first n frames, and the state behind them.

        features: (1, T, k·C), T >= n. The others are what attention looks ahead to; they come again
        in the next step.
        """
        x, states = self.model.project(features), []
        for index, (layer, before) in enumerate(zip(self.model.layers, state.layers, strict=True)):
            if isinstance(layer, TransformerLayer):
                x, after = layer.step(x, before, n, self.reach)
            else:
                x, after = layer.step(x, before, n)
            states.append(after)
            if index == self.last_attention:  # the layers behind it look at no later frame
                x = x[:, : n + len(JOIN)]
        hidden = self.model.norm(x[:, : n + len(JOIN)])
        after = DecoderState(tuple(states), hidden[:, n:] if hidden.shape[1] > n else None)
        return joined(hidden[:, :n], state.expected), after


def joined(hidden: Tensor, expected: Tensor | None) -> Tensor:
    """The head's input (1, n, D) of a step; expected: (1, m, D), its frames by the step before."""
    if expected is None:
        return hidden
    m = min(hidden.shape[1], expected.shape[1])
    weight = torch.tensor(JOIN[:m])[:, None]
    return torch.cat([torch.lerp(hidden[:, :m], expected[:, :m], weight), hidden[:, m:]], dim=1)

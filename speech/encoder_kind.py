"""The interface of an encoder's kind: everything in which speech encoders differ.

B batch, S samples at 16 kHz, A audio frames at 50 Hz, N frames at any rate, C0 feature width, C
transformer width, L states: the transformer's input and the output of each layer.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from common.errors import UserError
from config import SAMPLE_RATE
from speech.chunked_features import ChunkReader, TimeMoments
from speech.clip_audio import ClipAudio
from speech.encoder_config import EncoderConfig
from speech.features import resample
from speech.timing import AUDIO_FPS, HOP, WINDOW, Count, frame_lengths
from speech.windows import WHOLE_CLIPS, Windows

STANDARD_LEVEL = 0.6  # mean absolute amplitude of speech with unit variance, with short pauses


class EncoderKind(nn.Module):
    """Base of every kind: what `SpeechEncoder` and `TextTeacher` do differently for each encoder.

    It has no parameters and does not contain the body, so it adds nothing to a checkpoint.
    config: that of the body.
    """

    transformers_prefix: ClassVar[str]  # of the class names <prefix>Config, Model and ForCTC
    shape_fields: ClassVar[tuple[str, ...]]  # fields of the config that decide which weights fit
    windows: ClassVar[Windows] = WHOLE_CLIPS  # of the decoder behind it
    stride: ClassVar[int] = HOP  # samples between two frames of `convolve`
    padding_is_safe: bool = True  # a padded clip gets the features that it gets alone
    transformer_is_trained: ClassVar[bool] = True  # it gets the recipe's dropouts and SpecAugment
    # Fields to the config of `build_body`, with a default for each; None: that of transformers
    own_config: ClassVar[Callable[[dict[str, Any]], EncoderConfig] | None] = None

    def __init__(self, config: Any) -> None:
        super().__init__()

    @classmethod
    def transformers_class(cls, ending: str) -> type:
        """The class of transformers with that ending: "Config", "Model" or "ForCTC"."""
        import transformers

        with torch.device("cpu"):  # torch 2.6 cannot import what this imports on "meta"
            return getattr(transformers, cls.transformers_prefix + ending)

    @classmethod
    def build_body(cls, config: Any) -> nn.Module:
        """A randomly initialised body; config: of `bodies.encoder_config`."""
        return cls.transformers_class("Model")(config)

    @classmethod
    def build_ctc(cls, config: Any) -> nn.Module:
        """A randomly initialised CTC model of transformers with `lm_head` and `base_model_prefix`.

        config: of transformers, or its fields as an `EncoderConfig`. `lm_head` is None for a kind
        that has no text.
        """
        ctc_class = cls.transformers_class("ForCTC")
        if isinstance(config, EncoderConfig):
            fields = config.to_dict()
            del fields["model_type"]
            config = ctc_class.config_class(**fields)
        return ctc_class(config)

    @staticmethod
    def own_weights(config: Any, folder: Path) -> dict[str, Tensor] | None:
        """The weights of `bodies.build_ctc` in a folder; None where transformers loads them.

        Raises `OSError`, `ValueError` or `SafetensorError` for a file that cannot be read.
        """
        return None

    @staticmethod
    def n_states(config: Any) -> int:
        """L, the number of `states`."""
        return config.num_hidden_layers + 1

    @staticmethod
    def mismatch(config: Any) -> str:
        """Why a pre-trained encoder of this config cannot be used; "" if it can."""
        return "it has an adapter, which halves the frame rate" if config.add_adapter else ""

    @staticmethod
    def use_attention(body: nn.Module) -> None:
        """Let the body use the attention kernel of `layers.attention` where that is possible."""

    @staticmethod
    def checkpoint_activations(body: nn.Module) -> None:
        """In training, keep no activations inside layers; the backward pass recomputes them."""
        body.gradient_checkpointing_enable({"use_reentrant": False})

    def use_onnx(self, body: nn.Module) -> None:
        """Compute the frozen part by onnxruntime from now on, with the body's present weights.

        Raises `UserError` where the kind cannot, or where packages are missing.
        """
        raise UserError(
            "--encoder_backend onnx: expected a model on a Moonshine encoder, "
            f"got {self.transformers_prefix}; use --encoder_backend torch"
        )

    @staticmethod
    def frozen_part(body: nn.Module) -> nn.Module | None:
        """The part of the body that computes `convolve` and is not trained; None without one."""
        return None

    @classmethod
    def changed_settings(cls) -> dict[str, float]:
        """The constants of `convolve` that differ from those of the features that were stored.

        Part of the key of a `FeatureStore`, beside the weights.
        """
        return {}

    @staticmethod
    def native_lengths(n_samples: Count) -> Count:
        """N, the frames that `convolve` computes of S samples; an integer or an integer tensor."""
        return frame_lengths(n_samples)

    def convolve(self, body: nn.Module, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features (B, N, C0) of audio (B, S) at the kind's own frames.

        lengths: (B,) samples of each clip, all S when None. Raises `ValueError` where S < 400.
        """
        if self.padding_is_safe or lengths is None or int(lengths.min()) == audio.shape[1]:
            return self.convolve_batch(body, audio, lengths)
        clips = [
            self.convolve_batch(body, clip[None, :n], None)[0]
            for clip, n in zip(audio, lengths.tolist(), strict=True)
        ]
        return nn.utils.rnn.pad_sequence(clips, batch_first=True)

    def convolve_batch(
        self,
        body: nn.Module,
        audio: Tensor,
        lengths: Tensor | None,
        moments: TimeMoments | None = None,
    ) -> Tensor:
        """`convolve` in one call for all clips; lengths is None unless padding is safe.

        moments: of `values_over_time`, where `audio` is a part of a clip; None: those of `audio`.
        """
        raise NotImplementedError

    def values_over_time(self, body: nn.Module, audio: ClipAudio) -> Iterator[Tensor] | None:
        """Parts (n, C) of the values of a clip that `convolve_batch` normalises over time.

        None where it does not.
        """
        return None

    def at_audio_rate(self, conv: Tensor, n_samples: int, lengths: Tensor | None) -> Tensor:
        """Features (B, A, C0) at the 50 Hz of `speech.timing`, from conv (B, N, C0).

        n_samples: S; lengths: (B,) samples of each clip, all S when None.
        """
        return conv

    def at_mesh_rate(
        self,
        body: nn.Module,
        conv: Tensor,
        fps: int,
        k: int,
        n_samples: int,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """The transformer's input (B, T·k + r, C0) at fps·k Hz, r < k, from conv (B, N, C0).

        n_samples: S; lengths: (B,) samples of each clip, all S when None.
        """
        frames = None if lengths is None else frame_lengths(lengths)
        return resample(conv, fps * k, frames)

    def reader(
        self, body: nn.Module, audio: ClipAudio, fps: int, k: int
    ) -> Callable[[int, int], Tensor]:
        """A function that returns frames start to stop - 1 of `at_mesh_rate` of one clip.

        They are (1, n, C0). The ranges must move forwards. A few chunks of the clip are in memory.
        """
        return ChunkReader(self, body, audio, fps * k)

    def lead_in_s(self, audio: ClipAudio) -> float:
        """Seconds of silence before a clip that the decoder gets as well, so that it settles."""
        return 0.0

    def window_step(self, fps: int, k: int) -> int:
        """Samples between two instants at which a window of `window_features` may begin."""
        return SAMPLE_RATE // math.gcd(AUDIO_FPS, fps * k)

    def window_samples(self, n: int) -> int:
        """The samples of the shortest window of n samples whose last frame ends with it."""
        return WINDOW + -(-max(n - WINDOW, 0) // HOP) * HOP

    def window_features(
        self,
        body: nn.Module,
        transform: Callable[[Tensor], Tensor],
        audio: Tensor,
        begin: int,
        frames: tuple[int, int],
        rates: tuple[int, int],
    ) -> Tensor:
        """Transformed features (1, n, C) of a part of the frames of a window of a long recording.

        transform: of the `SpeechEncoder`; audio: (1, S) float32, level 1, the recording from sample
        `begin` on, a multiple of `window_step`; frames: start and stop, at fps·k Hz, counted from
        the recording's first sample; rates: fps and k. Frames behind the window get its last.
        """
        fps, k = rates
        features = self.convolve(body, audio * STANDARD_LEVEL)
        hidden = transform(self.at_mesh_rate(body, features, fps, k, audio.shape[1]))
        index = torch.arange(*frames) - begin * fps * k // SAMPLE_RATE
        return hidden[:, index.clamp(0, hidden.shape[1] - 1)]

    def transform(self, body: nn.Module, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Projection and transformer: features (B, N, C0) to (B, N, C).

        mask: (B, N) bool, True on real frames, None when all are. In training, SpecAugment is
        applied if the config says so and the clips are longer than one of its masks.
        """
        config = body.config
        hidden, _ = body.feature_projection(features)
        augment = body.training and config.apply_spec_augment
        if augment and hidden.shape[1] > config.mask_time_length:
            hidden = body._mask_hidden_states(hidden, attention_mask=mask)
        # transformers before 5.24 draws a random number per layer in evaluation, too: training
        # would depend on whether targets were cached and when previews were made
        unchanged = nullcontext() if body.training else torch.random.fork_rng(devices=[])
        with unchanged:
            return body.encoder(hidden, attention_mask=mask).last_hidden_state

    def read_text(
        self, model: nn.Module, features: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Latents (B, N, C) and character logits (B, N, K) of features (B, N, C0).

        model: of `build_ctc`. Where its `lm_head` is None, the only character is the blank. mask:
        (B, N) bool, True on real frames, None when all are.
        """
        hidden = self.transform(getattr(model, model.base_model_prefix), features, mask)
        if model.lm_head is None:
            return hidden, hidden.new_zeros(*hidden.shape[:2], 1)
        return hidden, model.lm_head(hidden)

    def states(self, body: nn.Module, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """All states (B, N, L, C) of `transform`: the input of each layer, then its own result."""
        inputs: dict[int, Tensor] = {}
        layers = body.encoder.layers
        hooks = [
            layer.register_forward_pre_hook(lambda _, args, i=i: inputs.update({i: args[0]}))
            for i, layer in enumerate(layers)
        ]
        try:
            states = [self.transform(body, features, mask)]
        finally:
            for hook in hooks:
                hook.remove()
        for i in reversed(range(len(layers))):  # a layer that LayerDrop skips has no input
            states.insert(0, inputs.get(i, states[0]))
        return torch.stack(states, dim=2)

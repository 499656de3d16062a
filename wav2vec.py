"""Speech encoder and teacher: pre-trained speech models as parts of this network.

The paper encodes speech with a pre-trained wav2vec 2.0 (section 3.1; Baevski et al. 2020), whose
convolutions give 50 feature vectors a second; meshes run at 25 or 30 frames a second.
`SpeechEncoder` brings the features of an encoder's frozen part (the convolutions, or all of
Moonshine) to fps·k before the trained rest and folds k frames into one after it: k = 1 is the
interpolation used for VOCASET, k = 2 the pairing used for BIWI. `TextTeacher` is the frozen CTC
model that gives the lip reader its targets.

Which encoders can be used, and in what they differ, is in `speech.kinds`; benchmarks/RESULTS.md
compares them.

B batch, S samples at 16 kHz, A audio frames at 50 Hz, T mesh frames, C0 feature width before the
transformer, C transformer width, K characters.
"""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from config import SAMPLE_RATE
from speech.bodies import body_of, build_body
from speech.clip_audio import ClipAudio
from speech.features import fold, length_mask, mix_states
from speech.kinds import kind_of
from speech.timing import AUDIO_FPS, frame_lengths, mesh_frames


class SpeechEncoder(nn.Module):
    """(B, S) audio to (B, T, k·C) features at the mesh's rate.

    config: a transformers config as a dict with its `model_type`; fps: mesh frames a second;
    fold: k; mix_layers: features are a learnt mean of all states, normalised, not the last state.
    Raises `UserError` for an unknown `model_type`.
    """

    def __init__(
        self, config: dict[str, Any], fps: int, fold: int, mix_layers: bool = False
    ) -> None:
        super().__init__()
        self.fps, self.k = fps, fold
        self.body = build_body(config)
        self.kind = kind_of(self.body.config.model_type)(self.body.config)
        self.width = fold * self.body.config.hidden_size
        n_states = self.kind.n_states(self.body.config)
        self.mix = nn.Parameter(torch.zeros(n_states)) if mix_layers else None

    def forward(
        self, audio: Tensor, lengths: Tensor | None = None, conv: Tensor | None = None
    ) -> Tensor:
        """Features (B, T, k·C), T = A * fps // 50.

        audio: (B, S) float32, zero mean and unit variance over each clip; lengths: (B,) samples of
        each clip, all S when None; conv: (B, N, C0) from `convolve`, where it is known already.
        """
        if conv is None:
            conv = self.convolve(audio, lengths)
        n_samples, kind = audio.shape[1], self.kind
        features = kind.at_mesh_rate(self.body, conv, self.fps, self.k, n_samples, lengths)
        hidden = self.transform(features, self.feature_mask(lengths, features))
        return fold(hidden[:, : mesh_frames(n_samples, self.fps) * self.k], self.k)

    def mesh_lengths(self, lengths: Tensor) -> Tensor:
        """(B,) mesh frames of each clip; lengths: (B,) samples."""
        return frame_lengths(lengths) * self.fps // AUDIO_FPS

    def convolve(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features (B, N, C0) of audio (B, S), before any trained layer; see `EncoderKind`."""
        return self.kind.convolve(self.body, audio, lengths)

    def reader(self, audio: ClipAudio) -> Callable[[int, int], Tensor]:
        """A function that returns the transformer's input (1, n, C0) of one clip.

        It is called with a start and a stop, in frames at fps·k Hz, that move forwards.
        """
        return self.kind.reader(self.body, audio, self.fps, self.k)

    def reader_from_rest(self, audio: ClipAudio) -> tuple[int, Callable[[int, int], Tensor]]:
        """Mesh frames of silence before a clip, and a `reader` of them and of the clip.

        The decoder begins in this silence (`EncoderKind.lead_in_s`).
        """
        frames = round(self.kind.lead_in_s(audio) * self.fps)
        return frames, self.reader(audio.after(-round(frames * SAMPLE_RATE / self.fps)))

    def window(self, audio: Tensor, begin: int, start: int, stop: int) -> Tensor:
        """Features (1, stop - start, k·C) of mesh frames start to stop - 1 of a long recording.

        audio: (1, S) float32 with a mean absolute amplitude of 1, the recording from sample `begin`
        on, a multiple of `kind.window_step`.
        """
        frames = start * self.k, stop * self.k
        hidden = self.kind.window_features(
            self.body, self.transform, audio, begin, frames, (self.fps, self.k)
        )
        return fold(hidden, self.k)

    def feature_mask(self, lengths: Tensor | None, features: Tensor) -> Tensor | None:
        """(B, N) bool, True on each clip's own frames of `at_mesh_rate`'s features (B, N, C0).

        None where `lengths` is None.
        """
        if lengths is None:
            return None
        frames = frame_lengths(lengths) * self.fps * self.k // AUDIO_FPS
        return length_mask(frames, features.shape[1], features.device)

    def transform(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Projection and transformer: (B, N, C0) to (B, N, C). mask: (B, N) bool, True is real."""
        if self.mix is None:
            return self.kind.transform(self.body, features, mask)
        return mix_states(self.kind.states(self.body, features, mask), self.mix)

    def freeze_features(self) -> None:
        """Compute no gradient for `EncoderKind.frozen_part`.

        The convolutions, as in the paper; all of an encoder whose kind is frozen.
        """
        frozen = self.kind.frozen_part(self.body)
        if frozen is not None:
            frozen.requires_grad_(False)


class TextTeacher(nn.Module):
    """The frozen CTC model whose features and text are the lip reader's targets.

    It is always in evaluation mode; the release's is in training mode, so its targets are random.
    model: of `speech.pretrained.load_pretrained`. One whose `lm_head` is None has features only:
    its single character is the blank, and every text is empty.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.kind = kind_of(model.config.model_type)(model.config)
        self.set_model(model)
        self.width = model.config.hidden_size
        has_text = model.lm_head is not None
        self.n_characters = model.config.vocab_size if has_text else 1
        self.blank = model.config.pad_token_id if has_text else 0

    def set_model(self, model: nn.Module) -> None:
        """Use this CTC model, frozen, from now on."""
        self.model = model.requires_grad_(False).eval()
        self.body = body_of(model)
        self.kind.use_attention(self.body)

    def free_model(self) -> None:
        """Free the model's memory; `set_model` must follow before the next call."""
        self.model = self.body = None
        gc.collect()  # transformers' models contain reference cycles

    def round_weights(self, dtype: torch.dtype) -> None:
        """Store the weights of linear layers in `dtype`, the dtype of the autocast in use.

        This halves their memory and saves the rounding in every call. From now on calls need that
        autocast. The kind's frozen part computes in float32 and stays as it is.
        """
        frozen = self.kind.frozen_part(self.body)
        unrounded = set() if frozen is None else set(frozen.modules())
        for layer in self.model.modules():
            if isinstance(layer, nn.Linear) and layer not in unrounded:
                layer.to(dtype)

    def train(self, mode: bool = True) -> "TextTeacher":
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)

    def convolve(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features (B, N, C0) of audio (B, S), before any trained layer; see `EncoderKind`."""
        return self.kind.convolve(self.body, audio, lengths)

    @torch.no_grad()
    def forward(
        self, audio: Tensor, lengths: Tensor | None = None, conv: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features (B, A, C) and character logits (B, A, K) of audio (B, S).

        lengths: (B,) samples of each clip, all S when None; conv: (B, N, C0) from `convolve`,
        where it is known already.
        """
        if conv is None:
            conv = self.convolve(audio, lengths)
        features = self.kind.at_audio_rate(conv, audio.shape[1], lengths)
        mask = None
        if lengths is not None:
            mask = length_mask(frame_lengths(lengths), features.shape[1], features.device)
        return self.kind.read_text(self.model, features, mask)

    def decode_text(self, logits: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """Greedy CTC decoding of (B, A, K) logits: one (n,) int64 tensor of characters per clip.

        lengths: (B,) audio frames of each clip, all A when None. The texts are on the host, because
        their lengths depend on values: on a GPU each clip would wait for it.
        """
        best = logits.argmax(-1).cpu()
        clips = [row if lengths is None else row[: int(lengths[i])] for i, row in enumerate(best)]
        merged = [torch.unique_consecutive(clip) for clip in clips]
        return [text[text != self.blank] for text in merged]

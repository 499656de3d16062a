"""Speech encoder: a wav2vec 2.0 (or w2v-BERT 2.0) body whose features arrive at the mesh's rate.

The paper encodes speech with a pre-trained wav2vec 2.0 (section 3.1; Baevski et al. 2020). Its
convolutions make 50 feature vectors a second; meshes run at 25 or 30. `SpeechEncoder` resamples
the convolutional features to fps·k before the transformer and folds k frames into one after it:
k = 1 is the interpolation used for VOCASET, k = 2 the pairing used for BIWI, one formula.

B batch, S samples at 16 kHz, A audio frames at 50 Hz, T mesh frames, C0 convolutional width,
C transformer width, K characters.

Two bodies from transformers are accepted, told apart by `model_type` in their config:
`wav2vec2` hears the raw wave; `wav2vec2-bert` hears Kaldi log-mel energies normalised over the
clip. benchmarks/RESULTS.md compares front-ends.
"""

import gc
from typing import Any

import torch
from torch import Tensor, nn

from layers import attention
from speech.bodies import build_body
from speech.features import SpeechFeatures, fold, length_mask, resample
from speech.timing import AUDIO_FPS, frame_lengths


class SpeechEncoder(nn.Module):
    """(B, S) audio to (B, T, k·C) features at the mesh's rate.

    config: a Wav2Vec2Config or Wav2Vec2BertConfig as a dict; fps: mesh frames a second; fold: k.
    """

    def __init__(self, config: dict[str, Any], fps: int, fold: int) -> None:
        super().__init__()
        self.fps, self.k = fps, fold
        self.body = build_body(config)
        self.features = SpeechFeatures(self.body)
        self.width = fold * self.body.config.hidden_size

    def forward(
        self, audio: Tensor, lengths: Tensor | None = None, conv: Tensor | None = None
    ) -> Tensor:
        """audio: (B, S) float32, zero mean and unit variance over each clip; lengths: (B,) samples.

        conv: (B, A, C0) what `features.convolve` gives, where it is known already. Returns
        (B, T, k·C), T = A * fps // 50.
        """
        if conv is None:
            conv = self.features.convolve(self.body, audio, lengths)
        features = self.features.in_context(self.body, conv, lengths)
        n_frames = features.shape[1] * self.fps // AUDIO_FPS
        frames = None if lengths is None else frame_lengths(lengths)
        features = resample(features, self.fps * self.k, frames)  # (B, T·k + r, C0)
        mask = None
        if frames is not None:
            mask = length_mask(frames * self.fps * self.k // AUDIO_FPS, features.shape[1])
        hidden = self.transform(features, mask)
        return fold(hidden[:, : n_frames * self.k], self.k)

    def transform(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Projection and transformer of the body: (B, N, C0) to (B, N, C). mask: (B, N) bool."""
        hidden, _ = self.body.feature_projection(features)
        longer = hidden.shape[1] > self.body.config.mask_time_length  # a shorter clip stays whole
        if self.training and self.body.config.apply_spec_augment and longer:
            hidden = self.body._mask_hidden_states(hidden, attention_mask=mask)
        return self.body.encoder(hidden, attention_mask=mask).last_hidden_state

    def freeze_features(self) -> None:
        """No gradient for the convolutions (as the paper and its peers do)."""
        if not self.features.is_mel:
            self.body.feature_extractor._freeze_parameters()


class TextTeacher(nn.Module):
    """The frozen CTC model that says what the audio holds: features and text, in evaluation mode.

    (The release leaves its teacher in training mode, so its targets are random; ours is not.)
    model: a Wav2Vec2ForCTC or Wav2Vec2BertForCTC; with `lm_head` None it knows one character, the
    blank, and every text is empty.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.set_model(model)
        self.features = SpeechFeatures(self.body)
        self.width = model.config.hidden_size
        reads = model.lm_head is not None
        self.n_characters = model.config.vocab_size if reads else 1
        self.blank = model.config.pad_token_id if reads else 0

    def set_model(self, model: nn.Module) -> None:
        """Use this CTC model, frozen, from now on."""
        self.model = model.requires_grad_(False).eval()
        self.body = getattr(model, model.base_model_prefix)
        if model.config.model_type == "wav2vec2":
            attention.use_in(self.body)

    def release_model(self) -> None:
        """Free the model's memory; `set_model` must follow before the next call."""
        self.model = self.body = None
        gc.collect()  # transformers' models contain reference cycles

    def round_weights(self, dtype: torch.dtype) -> None:
        """Hold the weights of linear layers in the dtype to which autocast rounds them anyway.

        Half of the memory, and no rounding in every call; calls need that autocast from now on.
        """
        for layer in self.model.modules():
            if isinstance(layer, nn.Linear):
                layer.to(dtype)

    def train(self, mode: bool = True) -> "TextTeacher":
        """Stays in evaluation mode whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, audio: Tensor, lengths: Tensor | None = None, conv: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, S) audio to features (B, A, C) and character logits (B, A, K).

        conv: (B, A, C0) what `features.convolve` gives, where it is known already.
        """
        if conv is None:
            conv = self.features.convolve(self.body, audio, lengths)
        features = self.features.in_context(self.body, conv, lengths)
        mask = None
        if lengths is not None:
            mask = length_mask(frame_lengths(lengths), features.shape[1])
        hidden, _ = self.body.feature_projection(features)
        with torch.random.fork_rng(devices=[]):  # transformers < 5.24 draws numbers in evaluation
            hidden = self.body.encoder(hidden, attention_mask=mask).last_hidden_state
        if self.model.lm_head is None:
            return hidden, hidden.new_zeros(*hidden.shape[:2], 1)
        return hidden, self.model.lm_head(hidden)

    def decode_text(self, logits: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """Greedy CTC decoding of (B, A, K) logits: one (n,) int64 tensor of characters per clip.

        lengths: (B,) audio frames of each clip, all A when None.
        """
        best = logits.argmax(-1)
        clips = [row if lengths is None else row[: int(lengths[i])] for i, row in enumerate(best)]
        merged = [torch.unique_consecutive(clip) for clip in clips]
        return [row[row != self.blank] for row in merged]

"""How the public JambaTalk release runs, in plain PyTorch: the other side of two benchmarks.

`bench_train` compares training, `bench_predict` prediction.

It was written from the names and shapes of the release's published weights and from its behaviour,
not from its code. `ReleaseNetwork` is `released.network.ReleasedJambaTalk` with the parts that only
training needs; its parameters have the names and shapes of the published files. A comment marks
each operation of the release that costs time or memory. Where the release's way is unknown, the
cheaper one is used: the frozen teacher builds no graph, gradients are not clipped, and the balance
loss, which the release discards, is not computed.

B batch (always 1), S samples at 16 kHz, A audio frames (50 Hz), T mesh frames, V vertices, L lip
vertices, D decoder width, C encoder width, E experts, N an expert's capacity in frames, K
characters.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2Model

from config import ModelConfig
from layers.mamba import set_scan_backend
from released.network import Mixture, ReleasedJambaTalk, stretched_frames
from speech.bodies import build_ctc, transformers_config
from speech.features import fold
from speech.timing import audio_frames

W_VERTEX, W_VELOCITY, W_LATENT, W_CTC = 1000.0, 1000.0, 0.001, 0.0001  # as the paper
LEARNING_RATE = 1e-4
LIP_LAYERS = 6  # in encoder and decoder each: the 126 M weights named transformer.*
CAPACITY_FACTOR = 1.25  # capacity of an expert / its even share (GShard, Mesh TensorFlow)
MIN_CAPACITY = 4  # frames
SECOND_THRESHOLD = 0.2  # from this gate on a second expert is always kept (Mesh TensorFlow)


class DispatchedMixture(Mixture):
    """Two experts per frame with one-hot dispatch (GShard, arXiv 2006.16668, algorithm 1).

    An expert has a capacity of N frames; frames beyond it are dropped. A second expert with a small
    gate is dropped at random.
    """

    def __init__(self, d_model: int, n_experts: int) -> None:
        super().__init__(d_model, n_experts)
        for weight in self.parameters():
            nn.init.normal_(weight, std=weight.shape[-2] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        combine = self.places(self.gate(x))  # (B, T, E, N)
        dispatch = combine.bool().to(x)
        # Both tensors have T·E·N numbers, and N grows with T: the release's memory grows with T²
        frames = torch.einsum("bten,btd->ebnd", dispatch, x)
        hidden = F.relu(torch.einsum("ebnd,edh->ebnh", frames, self.experts.w1))
        outputs = torch.einsum("ebnh,ehd->ebnd", hidden, self.experts.w2)
        return torch.einsum("ebnd,bten->btd", outputs, combine)

    def places(self, gates: Tensor) -> Tensor:
        """Weights (B, T, E, N) of each frame at each slot of each expert, for gates (B, T, E)."""
        _, n_frames, n_experts = gates.shape
        capacity = max(int(n_frames * CAPACITY_FACTOR / n_experts), MIN_CAPACITY)
        first, index = gates.max(-1)  # (B, T)
        chosen = F.one_hot(index, n_experts).to(gates)  # (B, T, E)
        second, index = (gates * (1 - chosen)).max(-1)
        also = F.one_hot(index, n_experts).to(gates)
        total = first + second
        # Drawn anew in every step: the same clip is routed differently each time
        also = also * (torch.rand_like(second) < second / SECOND_THRESHOLD)[..., None]
        place = chosen.cumsum(1) - 1  # (B, T, E): position of a frame among those of its expert
        place_also = also.cumsum(1) - 1 + chosen.sum(1, keepdim=True)
        return _one_hot(chosen * (first / total)[..., None], place, capacity) + _one_hot(
            also * (second / total)[..., None], place_also, capacity
        )


def _one_hot(weights: Tensor, place: Tensor, capacity: int) -> Tensor:
    """(B, T, E, N) with weights (B, T, E) at slots `place` (B, T, E), zero beyond the capacity."""
    fits = (place >= 0) & (place < capacity)
    rows = F.one_hot(place.clamp(0, capacity - 1).long(), capacity).to(weights)
    return (weights * fits)[..., None] * rows


class ReleaseNetwork(ReleasedJambaTalk):
    """The release's network with its teacher and its lip Transformer, as it trains them.

    lips: (L,) int64 vertices. The encoder's convolutions and the teacher are frozen.
    """

    def __init__(self, config: ModelConfig, lips: Tensor) -> None:
        super().__init__(config)
        self.register_buffer("lips", lips, persistent=False)
        self.mamba_moe.moe = DispatchedMixture(config.d_model, config.n_experts)
        # The encoder is transformers' module
        body = self.audio_encoder = Wav2Vec2Model(transformers_config(config.encoder))
        body.feature_extractor._freeze_parameters()
        width = body.config.hidden_size
        # The teacher is a second encoder of the same size, saved with the network
        self.text_encoder = build_ctc(body.config).requires_grad_(False)
        self.text_encoder.freeze_feature_encoder()
        # The lip reader is a Transformer as wide as the teacher: 126 M weights, the teacher 315 M
        self.transformer = nn.Transformer(
            width, num_encoder_layers=LIP_LAYERS, num_decoder_layers=LIP_LAYERS,
            dim_feedforward=2 * width, batch_first=True,
        )  # fmt: skip
        self.lip_map = nn.Linear(3 * len(lips), width)
        self.lm_head = nn.Linear(width, body.config.vocab_size)
        # Scans are sequential over frames, with every state stored for the backward pass
        set_scan_backend(self, "reference")
        # Attention is explicit, so its maps (A² per layer and head) are stored for the backward
        # pass; the encoder also returns its maps, which are not used
        for wav2vec2 in (body, self.text_encoder):
            wav2vec2.set_attn_implementation("eager")
        self.maps: list[Tensor] = []
        for layer in body.encoder.layers:
            layer.attention.register_forward_hook(self._keep_map)

    def _keep_map(self, _module: nn.Module, _args: tuple, output: tuple[Tensor, Tensor]) -> None:
        self.maps.append(output[1])

    def encode(self, audio: Tensor) -> Tensor:
        """As `ReleasedJambaTalk`, with wav2vec 2.0's random masks (SpecAugment) in training."""
        features = self.convolve(audio)  # in every step, although these weights never change
        if self.config.fold == 1:
            frames = stretched_frames(features.shape[-1], self.config.fps)
            features = F.interpolate(features, frames, mode="linear", align_corners=True)
        hidden, _ = self.audio_encoder.feature_projection(features.transpose(1, 2))
        if self.training:
            hidden = self.audio_encoder._mask_hidden_states(hidden)
        return fold(self.audio_encoder.encoder(hidden).last_hidden_state, self.config.fold)

    def convolve(self, audio: Tensor) -> Tensor:
        """As `ReleasedJambaTalk`, the whole clip at once by torch's convolutions."""
        return self.audio_encoder.feature_extractor(audio)

    def lip_features(self, vertices: Tensor, template: Tensor, n_frames: int) -> Tensor:
        """(1, A, C) of the lip Transformer, from vertices (1, T, V, 3); n_frames: A."""
        offsets = (vertices[:, :, self.lips] - template[self.lips]).flatten(2)  # (1, T, 3·L)
        lips = F.interpolate(self.lip_map(offsets).transpose(1, 2), n_frames, mode="linear")
        lips = lips.transpose(1, 2)  # (1, A, C)
        return self.transformer(lips, lips)

    def losses(self, audio: Tensor, template: Tensor, vertices: Tensor) -> dict[str, Tensor]:
        """The four losses of one clip, by name, each ().

        audio: (1, S) normalised; template: (V, 3); vertices: (1, T or more, V, 3).
        """
        self.maps = []
        predicted = self(audio, template)  # (1, T, V, 3)
        truth = vertices[:, : predicted.shape[1]]
        # The teacher runs in every step, and in training mode like the whole network: dropout and
        # masks change its targets each time
        teacher = self.text_encoder(audio, output_hidden_states=True)
        latent = teacher.hidden_states[-1]  # (1, A, C)
        lip_latent = self.lip_features(predicted, template, latent.shape[1])
        text = torch.unique_consecutive(teacher.logits[0].argmax(-1))
        text = text[text != self.text_encoder.config.pad_token_id]
        log_probs = self.lm_head(lip_latent)[0].log_softmax(-1)  # (A, K)
        steps, truth_steps = (v[:, 1:] - v[:, :-1] for v in (predicted, truth))
        return {
            "vertex": F.mse_loss(predicted, truth),
            "velocity": F.mse_loss(steps, truth_steps),
            "latent": F.mse_loss(lip_latent, latent),
            "ctc": F.ctc_loss(
                log_probs, text, (len(log_probs),), (len(text),), zero_infinity=True,
                blank=self.text_encoder.config.pad_token_id,
            ),
        }  # fmt: skip


@torch.no_grad()
def predict_clip(network: ReleaseNetwork, audio: Tensor, template: Tensor) -> Tensor:
    """Vertices (1, T, V, 3) of one clip, as the release predicts; audio: (1, S); template: (V, 3).

    The release also runs its lip Transformer and drops the result.
    """
    network.eval()
    network.maps = []
    vertices = network(audio, template)
    network.lm_head(network.lip_features(vertices, template, audio_frames(audio.shape[1])))
    return vertices


def make_adam(network: ReleaseNetwork) -> torch.optim.Adam:
    """Adam with PyTorch's defaults over all trained parameters, at one learning rate."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    return torch.optim.Adam(trained, lr=LEARNING_RATE)


def train_clip(
    network: ReleaseNetwork, adam: torch.optim.Adam, clip: Sequence[Tensor]
) -> dict[str, float]:
    """Train one step in float32 on one clip; returns its losses by name.

    clip: the arguments of `ReleaseNetwork.losses`. The release's batches hold one clip.
    """
    network.train()
    adam.zero_grad()
    parts = network.losses(*clip)
    loss = (
        W_VERTEX * parts["vertex"]
        + W_VELOCITY * parts["velocity"]
        + W_LATENT * parts["latent"]
        + W_CTC * parts["ctc"]
    )
    loss.backward()
    adam.step()
    return {name: value.item() for name, value in parts.items()}

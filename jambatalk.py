"""JambaTalk (Jafari, Berretti, Basu, arXiv 2408.01627): speech to the offsets of a face mesh.

A wav2vec encoder, then a hybrid decoder written as a layout string: M a Mamba layer, E a Mamba
layer with a mixture of experts, A a Transformer layer with grouped-query attention and LRL-RoPE
(paper, figure 2 and the authors' poster); then one matrix to vertex offsets that starts at zero,
so that training starts from the still face.

B batch, S samples at 16 kHz, T mesh frames, V vertices, D decoder width, k·C encoder width.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from common.errors import UserError
from common.overrides import from_dict
from config import DatasetSpec, ModelConfig
from files.arrays import check_file, other_model_file
from layers.mamba import NORM_EPS, MambaLayer
from layers.moe import MoEMambaLayer
from layers.transformer import TransformerLayer
from speech.features import fold, length_mask, resample
from speech.timing import AUDIO_FPS, frame_lengths, mesh_frames
from wav2vec import SpeechEncoder

WINDOW_S, OVERLAP_S = 12, 2  # long audio is predicted in windows of 12 s that cross-fade over 2 s
HEADER = "jambatalk"  # key of the JSON in a model file's header


def make_layer(kind: str, config: ModelConfig) -> nn.Module:
    """One decoder layer for a letter of the layout; ValueError for an unknown letter."""
    c = config
    if kind == "M":
        return MambaLayer(c.d_model, c.d_ff, c.d_state, c.d_conv, c.expand, c.dropout)
    if kind == "E":
        return MoEMambaLayer(c.d_model, c.d_ff, c.n_experts, c.top_k, c.moe_d_state, c.moe_d_conv,
                             c.expand, c.dropout)  # fmt: skip
    if kind == "A":
        return TransformerLayer(c.d_model, c.d_ff, c.n_heads, c.n_kv_heads, c.rope_rank, c.dropout)
    raise ValueError(f"layout letter {kind!r}; wanted M, E or A")


class CoarseBackward(torch.autograd.Function):
    """x · Wᵀ + b in float32, whose gradients by x and W are computed in bfloat16, as autocast's.

    What is shown needs the digits; the gradient of a layer this wide is a sum over thousands of
    vertices or frames, accumulated in float32, and is rounded to bfloat16 one layer further down.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x: (B, T, D); weight: (3V, D); bias: (3V,). Returns (B, T, 3V)."""
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, weight and bias, float32."""
        x, weight = ctx.saved_tensors
        gradient = gradient.flatten(0, -2)  # (B·T, 3V)
        coarse = gradient.bfloat16()
        by_x = (coarse @ weight.bfloat16()).float().view_as(x)
        by_weight = (coarse.T @ x.flatten(0, -2).bfloat16()).float()
        return by_x, by_weight, gradient.sum(0)


class VertexHead(nn.Module):
    """(B, T, D) to offsets (B, T, V, 3), zero at the start.

    rank 0: one D x 3V matrix, as the paper. rank r: D x r, then r learnt components of the mesh,
    which `set_components` can start from those of the data, at the mean motion.
    """

    def __init__(self, d_model: int, n_vertices: int, rank: int) -> None:
        super().__init__()
        self.n_vertices = n_vertices
        self.coefficients = nn.Linear(d_model, rank) if rank else None
        self.offsets = nn.Linear(rank or d_model, 3 * n_vertices)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        coarse = torch.is_autocast_enabled(device) and torch.is_grad_enabled()
        coarse = coarse and torch.get_autocast_dtype(device) == torch.bfloat16
        with torch.autocast(device, enabled=False):  # 0.2 % of a millimetre matters
            x = x.float() if self.coefficients is None else self.coefficients(x.float())
            last = self.offsets
            offsets = CoarseBackward.apply(x, last.weight, last.bias) if coarse else last(x)
            return offsets.unflatten(-1, (self.n_vertices, 3))

    @torch.no_grad()
    def set_components(self, mean: Tensor, components: Tensor) -> None:
        """Start from mean (V, 3) and components (rank, V, 3), scaled to unit coefficients."""
        if self.coefficients is None:
            raise ValueError("a vertex head of full rank has no components")
        self.offsets.bias.copy_(mean.flatten())
        self.offsets.weight.copy_(components.flatten(1).T)
        nn.init.normal_(self.coefficients.weight, std=0.02)
        nn.init.zeros_(self.coefficients.bias)


class JambaTalk(nn.Module):
    """Speech and a neutral face to a moving face."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SpeechEncoder(config.encoder, config.fps, config.fold)
        self.project = nn.Linear(self.encoder.width, config.d_model)
        self.layers = nn.ModuleList(make_layer(kind, config) for kind in config.layout)
        self.norm = nn.RMSNorm(config.d_model, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.head = VertexHead(config.d_model, config.n_vertices, config.vertex_rank)
        self.checkpointing = False

    def checkpoint_activations(self) -> None:
        """Keep no activations inside layers while training: they are computed again backward."""
        self.checkpointing = True
        self.encoder.body.gradient_checkpointing_enable({"use_reentrant": False})

    def forward(
        self,
        audio: Tensor,
        template: Tensor,
        lengths: Tensor | None = None,
        conv: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Vertices (B, T, V, 3) in the template's unit, and the routers' balance losses (B,).

        audio: (B, S) zero mean, unit variance over each clip; template: (B, V, 3);
        lengths: (B,) samples of each clip when the batch is padded; conv: (B, A, C0) the encoder's
        convolutional features, where they are known already.
        """
        features = self.encoder(audio, lengths, conv)  # (B, T, k·C)
        mask = self.frame_mask(lengths, features.shape[1])  # (B, T) or None
        offsets, balance = self.decode(features, mask)  # (B, T, V, 3), (B,)
        return template[:, None] + offsets, balance  # fmt: skip

    def decode(self, features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encoder features (B, T, k·C) to offsets (B, T, V, 3) and balance losses (B,)."""
        x = self.dropout(self.project(features))
        balance = x.new_zeros(len(x), dtype=torch.float32)
        for layer in self.layers:
            if self.checkpointing and self.training:
                x = checkpoint(layer, x, mask, use_reentrant=False)
            else:
                x = layer(x, mask)
            if isinstance(x, tuple):
                x, layer_balance = x
                balance = balance + layer_balance
        offsets, units = self.head(self.norm(x)), self.config.units_per_metre
        return (offsets if units == 1 else offsets * units), balance  # a pass over all vertices

    def frame_mask(self, lengths: Tensor | None, n_frames: int) -> Tensor | None:
        """(B, T) bool, True on the frames that each clip's own samples reach."""
        if lengths is None:
            return None
        frames = frame_lengths(lengths) * self.config.fps // AUDIO_FPS
        return length_mask(frames, n_frames)

    @torch.inference_mode()
    def stream(self, audio: Tensor, template: Tensor) -> Iterator[Tensor]:
        """Yield vertices (n, V, 3) of one clip, in order, T = mesh_frames(S, fps) in all.

        audio: (S,) normalised; template: (V, 3). Features are normalised over the whole clip;
        the transformer and the decoder see windows, so that their memory does not grow with S.
        """
        self.eval()
        fps, k = self.config.fps, self.config.fold
        n_frames = mesh_frames(len(audio), fps)
        if not audio.any():  # digital silence cannot be normalised, and moves no lips
            for start in range(0, n_frames, WINDOW_S * fps):
                yield template.expand(min(WINDOW_S * fps, n_frames - start), *template.shape)
            return
        features = self.encoder.features(self.encoder.body, audio[None], None)
        features = resample(features, fps * k)[:, : n_frames * k]  # (1, T·k, C0)
        window, overlap = WINDOW_S * fps, OVERLAP_S * fps
        tail, start = None, 0
        while start < n_frames:
            stop = n_frames if n_frames - start <= window + overlap else start + window
            hidden = self.encoder.transform(features[:, start * k : stop * k])
            offsets = self.decode(fold(hidden, k))[0][0]  # (n, V, 3)
            if tail is not None:
                fade = torch.linspace(0, 1, overlap + 2, device=offsets.device)[1:-1, None, None]
                offsets[:overlap] = torch.lerp(tail, offsets[:overlap], fade)
            last = stop == n_frames
            ready = offsets if last else offsets[:-overlap]
            tail = None if last else offsets[-overlap:]
            yield template + ready
            start = stop if last else stop - overlap

    def predict(self, audio: Tensor, template: Tensor) -> Tensor:
        """Vertices (T, V, 3) of one clip: audio (S,) normalised, template (V, 3)."""
        return torch.cat(list(self.stream(audio, template)))


def save_checkpoint(
    path: str | Path, model: JambaTalk, spec: DatasetSpec, half: bool = False
) -> None:
    """Write one .safetensors with config and data spec as JSON in its header; whole or not at all.

    half: store weights as float16 (they are read back as float32).
    """
    from safetensors.torch import save_file

    path = Path(path)
    header = {"model": dataclasses.asdict(model.config), "dataset": dataclasses.asdict(spec)}
    dtype = torch.float16 if half else torch.float32
    weights = {
        name: value.detach().to("cpu", dtype).contiguous()
        for name, value in model.state_dict().items()
    }
    temporary = path.with_name(path.name + ".tmp")
    save_file(weights, temporary, metadata={HEADER: json.dumps(header)})
    temporary.chmod(0o644)  # safetensors makes files that only their owner can read
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: str | Path) -> tuple[JambaTalk, DatasetSpec]:
    """The model of a file written by `save_checkpoint`, in evaluation mode, and its data spec.

    No flag, no network, nothing unpickled. Raises `UserError` for a missing or foreign file.
    """
    from safetensors import SafetensorError, safe_open

    path = check_file(path, "checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        found = other_model_file(path) or f"not a whole .safetensors file ({error})"
        raise UserError(f"checkpoint {path}: {found}") from error
    if header is None:
        found = other_model_file(path)
        wanted = f"no {HEADER} header; main.py writes model files that have one"
        raise UserError(f"checkpoint {path}: {found or wanted}")
    try:
        values = json.loads(header)
        model = JambaTalk(from_dict(ModelConfig, values["model"]))
        spec = from_dict(DatasetSpec, values["dataset"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"checkpoint {path}: its header makes no model ({error})") from error
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"checkpoint {path}: weights do not fit its config ({reason})") from error
    return model.eval(), spec

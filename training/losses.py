"""The training losses as pure functions, and their weighted sum.

Paper, section 3.5 (after SelfTalk): 1000 vertex + 1000 velocity + 0.001 latent + 0.0001 CTC. Ours
adds the routers' balance loss, which the release computes but does not use, and optionally a loss
of the lip region. The mesh losses take error = prediction - truth, (B, T, V, 3): at 6,000 vertices
it is the largest tensor of a step, so `mesh_losses` makes it once and, on a CPU, not at all
(`mesh_kernels`). A mask (B, T) is True on real frames; None means all.

Each loss is a sum over the batch divided by a number of frames or clips: the batch's own, or the
one that is passed in. A step over several batches, one after the other or on several processes,
passes the `Sizes` of the whole step. Its losses and gradients then add up to those of one large
batch, whatever the lengths of its clips.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from config import TrainConfig
from speech.features import length_mask


@dataclass(frozen=True)
class Sizes:
    """Sizes of a batch without padding, by which its losses are divided."""

    clips: int
    frames: int  # of the mesh
    pairs: int  # of neighbouring frames
    audio_frames: int  # at 50 Hz

    def __add__(self, other: "Sizes") -> "Sizes":
        return Sizes(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def sizes_of(frames: Tensor, audio_frames: Tensor) -> Sizes:
    """Sizes of a batch whose clips have (B,) mesh frames and (B,) audio frames."""
    pairs = (frames - 1).clamp(min=0)
    return Sizes(len(frames), int(frames.sum()), int(pairs.sum()), int(audio_frames.sum()))


def vertex_loss(error: Tensor, mask: Tensor | None = None, frames: int | None = None) -> Tensor:
    """Mean squared error over the coordinates of real frames, ()."""
    return mean_square(error, mask, frames)


def velocity_loss(error: Tensor, mask: Tensor | None = None, pairs: int | None = None) -> Tensor:
    """Mean squared error of the differences between neighbouring frames; 0 for a single frame."""
    if error.shape[1] < 2:
        return error.new_zeros(())
    both = None if mask is None else mask[:, 1:] & mask[:, :-1]
    return mean_square(error[:, 1:] - error[:, :-1], both, pairs)


def mesh_losses(
    prediction: Tensor, truth: Tensor, frames: Tensor, sizes: Sizes, lips: Tensor,
    loss_scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`vertex_loss` and `velocity_loss` of whole clips, () each, and the predicted lips.

    prediction: (B, T or more, V, 3); truth: (B, T, V, 3); frames: (B,) real ones; lips: (L,)
    vertices; loss_scale: factor of the errors. Other losses on the prediction should take the
    returned lips, (B, T, L, 3): the gradient of a slice of it costs a pass over all of it.
    """
    n_frames = truth.shape[1]
    if prediction.device.type == "cpu":
        vertex, velocity, predicted_lips = MeshSums.apply(prediction, truth, frames.tolist(), lips)
        n_coordinates = truth.shape[2:].numel()  # of a frame
        vertex = vertex * (loss_scale**2 / max(sizes.frames * n_coordinates, 1))
        velocity = velocity * (loss_scale**2 / max(sizes.pairs * n_coordinates, 1))
        return vertex, velocity, predicted_lips
    prediction = prediction[:, :n_frames]
    error = (prediction - truth) * loss_scale
    mask = length_mask(frames, n_frames, prediction.device)  # (B, T)
    vertex = vertex_loss(error, mask, sizes.frames)
    return vertex, velocity_loss(error, mask, sizes.pairs), prediction[:, :, lips]


class MeshSums(torch.autograd.Function):
    """Sums of the squares of errors and of their differences in time, and the lips, on a CPU.

    By `mesh_kernels`: padding is left out instead of multiplied by zero, and sums are float64: one
    float32 sum over millions of squares is 1e-4 off.
    """

    @staticmethod
    def forward(
        ctx: Any, prediction: Tensor, truth: Tensor, frames: list[int], lips: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `mesh_losses`; the first two are sums, in the data's unit squared."""
        from training.mesh_kernels import add_squares  # compiled by numba at its first call

        totals = np.zeros((*truth.shape[:2], 2))
        share(add_squares, *_arrays(prediction, truth, frames), outputs=[totals])
        ctx.save_for_backward(prediction, truth, lips)
        ctx.frames = frames
        predicted_lips = prediction[:, : truth.shape[1]].index_select(2, lips)
        return *prediction.new_tensor(totals.sum(axis=(0, 1))), predicted_lips

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """With d(t) = e(t+1) - e(t), 0 at both ends: 2 g e(t) + 2 h (d(t-1) - d(t)), and lips."""
        from training.mesh_kernels import write_gradient

        prediction, truth, lips = ctx.saved_tensors
        gradient = torch.empty_like(prediction, memory_format=torch.contiguous_format)
        arrays = _arrays(prediction, truth, ctx.frames)
        factors = (arrays[0].dtype.type(2 * factor.item()) for factor in outer[:2])
        share(write_gradient, *arrays, *factors, outputs=[gradient.flatten(2).numpy()])
        of_lips = outer[2]
        gradient[:, : of_lips.shape[1]].index_add_(2, lips, of_lips)
        return gradient, None, None, None


def _arrays(prediction: Tensor, truth: Tensor, frames: list[int]) -> tuple[NDArray, ...]:
    """Meshes (B, T, 3V) and frames (B,) for the kernels; contiguous meshes are not copied."""
    meshes = (x.detach().flatten(2).contiguous() for x in (prediction, truth.to(prediction)))
    return *(x.numpy() for x in meshes), np.array(frames)


def share(kernel: Callable[..., None], *inputs: Any, outputs: Sequence[NDArray]) -> None:
    """Call kernel(*inputs, thread, n_threads, *outputs) on as many threads as torch uses."""
    n_threads = torch.get_num_threads()
    if n_threads == 1:
        kernel(*inputs, 0, 1, *outputs)
        return
    with ThreadPoolExecutor(n_threads) as threads:
        list(threads.map(lambda i: kernel(*inputs, i, n_threads, *outputs), range(n_threads)))


def closure_weight(inner_lips: Tensor, gain: float | Tensor, reach: float) -> Tensor:
    """Weight (B, T) of each frame: 1 + gain where the inner lips touch, falling to 1 as they part.

    inner_lips: (B, T, 2n, 3) true positions of n pairs, upper and lower lip in turn, y up; the
    opening is the mean of the pairs. gain: one or (B, T). reach: the opening, in their unit, where
    the extra weight has fallen to 1/e. A squared error alone leaves lips half open where a closure
    is uncertain, and a missed closure is what viewers notice.
    """
    opening = lip_opening(inner_lips).clamp(min=0)
    return 1.0 + gain * torch.exp(-((opening / reach) ** 2))


def lip_opening(inner_lips: Tensor) -> Tensor:
    """Mean opening (B, T) of n pairs; inner_lips: (B, T, 2n, 3), upper and lower in turn, y up."""
    height = inner_lips[..., 1].unflatten(-1, (-1, 2))  # (B, T, n, 2)
    return (height[..., 0] - height[..., 1]).mean(-1)


def open_loss(
    predicted: Tensor, true: Tensor, rest: Tensor, touch: float, mask: Tensor, frames: int,
    noise: Tensor | float = 0.0,
) -> Tensor:  # fmt: skip
    """Mean square, (), of how much too close the lips are where the true ones do not touch, and of
    how far they are open where those rest.

    predicted, true: (B, T) openings, rest: (B, 1) those of the templates; lips touch where they are
    closer than `touch`. They are too close below the true opening or below 1.5 `touch`, whichever
    is less: a squared error of an uncertain closure leaves them just so far apart that they seem to
    touch. The true lips rest, as in pauses, within 0.05 `touch` of `rest` (those of p, b and m are
    pressed). There, 0.05 `touch` more are free, and lips that are open by one `touch` beyond that
    are not pulled: with a pull on those all openings of human speech became smaller. mask: (B, T);
    frames: number of frames to divide by; noise: (B, T), 0 to 1, or one value: lips that are too
    close count 1 - noise, because p, b and m opened in noisy speech where they counted there, too.
    """
    least = true.clamp(max=1.5 * touch)
    short = (least - predicted).clamp(min=0) * (mask & (true > touch))
    still = (true - rest).abs() < 0.05 * touch
    wide = (predicted - rest - 0.05 * touch).clamp(min=0, max=touch) * (mask & still)
    too_close = short.square() * (1 - noise)
    return (too_close.sum() + wide.square().sum()) / max(frames, 1)


def latent_loss(
    latent: Tensor, features: Tensor, mask: Tensor | None = None, frames: int | None = None
) -> Tensor:
    """Mean squared error of the lip reader's features against the teacher's, (B, A, C) each; ().

    mask: (B, A); frames: number of audio frames to divide by, by default those of the mask.
    """
    return mean_square(latent.float() - features.float(), mask, frames)


def ctc_loss(
    logits: Tensor, texts: list[Tensor], lengths: Tensor, blank: int, clips: int | None = None
) -> Tensor:
    """CTC of logits (B, A, K) against one (n,) text per clip, divided by its characters (at least
    one), mean over clips; a text longer than its clip allows gives 0.

    lengths: (B,) frames of each clip.
    """
    targets = torch.cat(texts).to(logits.device, non_blocking=True)
    sizes = torch.tensor([len(text) for text in texts], device="cpu")  # as torch.ctc_loss takes it
    if not len(targets):
        return logits.sum() * 0.0
    if logits.device.type == "cpu":
        from training.ctc import CTC  # compiled by numba at its first import

        each = CTC.apply(logits.float(), targets, lengths, sizes, blank)
    else:
        log_probs = logits.float().log_softmax(-1).transpose(0, 1)  # (A, B, K)
        each = F.ctc_loss(
            log_probs, targets, lengths, sizes, blank=blank, zero_infinity=True, reduction="none"
        )
    sizes = sizes.to(each.device, non_blocking=True)
    return (each / sizes.clamp(min=1)).sum() / (clips or len(texts))


def mean_square(values: Tensor, mask: Tensor | None, frames: int | None = None) -> Tensor:
    """Mean of the squares of (B, T, ...) values over the frames where mask (B, T) is True.

    frames: number of frames to divide by, by default those of the mask. A dot product, since that
    is one pass over memory forward and one backward.
    """
    n_coordinates = values.shape[2:].numel()  # of a frame
    if frames is None:
        frames = values.shape[:2].numel() if mask is None else mask.sum()
    if mask is not None:
        values = values * mask.view(*mask.shape, *([1] * (values.ndim - 2)))
    flat = values.to(torch.promote_types(values.dtype, torch.float32)).reshape(-1)
    count = frames * n_coordinates
    return torch.dot(flat, flat) / (
        count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
    )


def total_loss(parts: dict[str, Tensor], config: TrainConfig) -> Tensor:
    """Weighted sum of the losses that there are; each has the weight w_<name> of the config."""
    weights = {
        "vertex": config.w_vertex,
        "velocity": config.w_velocity,
        "latent": config.w_latent,
        "ctc": config.w_ctc,
        "balance": config.w_balance,
        "code": config.w_code,
        "lips": config.w_lips,
        "details": config.w_details,
        "open": config.w_open,
    }
    return sum(weights[name] * value for name, value in parts.items())

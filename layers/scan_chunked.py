"""The `chunked` backend: the selective scan in chunks of frames, in PyTorch, with its own backward.

It covers what the other backends do not: GPUs without mamba_ssm, float64, other devices. Symbols as
in `selective_scan`. Within a chunk everything but the recurrence is one operation over all frames,
in a buffer (frames, clips, N, d_inner) that fits the cache. Forward keeps only the states between
chunks; backward computes the states of a chunk again. Softplus, skip and gate are applied within
the chunk too, so the only tensors of the clip's length are inputs, output and gradients.

Only exp(delta · A) is computed, never its inverse, so every delta and every length are safe.

B clips, T frames; inside a chunk T is its number of frames and b its number of clips.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 23}  # numbers of state per chunk: 2 MB; 32 MB
GROUP_ELEMENTS = 1 << 15  # on a CPU, numbers of state per frame: outweigh the cost of a call
MIN_CHUNK, MAX_CHUNK = 8, 1024  # frames; on a GPU fewer chunks are fewer kernel launches
LOG2_E = math.log2(math.e)

Part = tuple[slice, slice]  # clips and frames of a chunk


class ChunkedScan(torch.autograd.Function):
    """The scan with its softplus, skip and gate, in float32, or float64 for float64 input.

    u, delta: (B, T, d_inner).  A: (N, d_inner).  B, C: (B, T, N).  D, delta_bias: (d_inner,) or
    None.  z: (B, T, d_inner) or None.  Returns y (B, T, d_inner) in u's dtype and the last state
    (B, N, d_inner) in that of the states.
    """

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        """Shapes as above; keeps the states between chunks where a gradient is needed."""
        chunks = _Chunks(u, delta, A, B, C, D, z, delta_bias, delta_softplus, n_buffers=2)
        y = torch.empty_like(u)
        last_state = chunks.A.new_empty(len(u), *A.shape)
        keep = any(ctx.needs_input_grad)
        starts = last_state.new_empty(len(chunks.spans) if keep else 0, *last_state.shape)
        for rows in chunks.groups:
            state = torch.zeros_like(last_state[rows])
            for i, span in enumerate(chunks.spans):
                if keep:
                    starts[i, rows] = state
                part = (rows, span)
                x, _, step = chunks.steps(part)
                _, states = chunks.expand(part, x, step, state)
                out = chunks.output(part, x, states)
                if z is not None:
                    out = out * F.silu(chunks.frames_first(z, part))
                y[part] = out.transpose(0, 1)
                state = states[-1]
            last_state[rows] = state
        ctx.delta_softplus = delta_softplus
        ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, starts)
        return y, last_state

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_last):
        """Gradients of the tensors of `forward`, in their dtypes."""
        *inputs, starts = ctx.saved_tensors
        u = inputs[0]
        chunks = _Chunks(*inputs, ctx.delta_softplus, n_buffers=3)
        grads = [None if x is None else torch.empty_like(x) for x in inputs]
        for i in (2, 5, 7):  # A, D and the bias are summed over clips and frames
            if grads[i] is not None:
                grads[i] = torch.zeros_like(inputs[i], dtype=chunks.A.dtype)
        with torch.autocast(u.device.type, enabled=False):
            for rows in chunks.groups:
                grad_state = grad_last[rows]
                for i, span in reversed(list(enumerate(chunks.spans))):
                    part = (rows, span)
                    grad_state = chunks.backward(part, starts[i, rows], grad_y, grad_state, grads)
        grads = (g if g is None else g.to(x.dtype) for g, x in zip(grads, inputs, strict=True))
        return *grads, None


class _Chunks:
    """The inputs of a scan, split into chunks; forward and backward of one chunk, (T, b, ...)."""

    def __init__(self, u, delta, A, B, C, D, z, bias, delta_softplus: bool, n_buffers: int) -> None:
        self.dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
        self.u, self.delta, self.B, self.C, self.z = u, delta, B, C, z
        self.A = A.to(self.dtype).contiguous()
        self.D, self.bias = (x if x is None else x.to(self.dtype) for x in (D, bias))
        self.delta_softplus = delta_softplus
        self.groups, self.spans = plan(u, A)
        # Allocated once per call: page faults of fresh memory cost more than the arithmetic.
        elements = (self.spans[0].stop + 1) * self.groups[0].stop * A.numel()
        self.buffers = [self.A.new_empty(elements) for _ in range(n_buffers)]

    def frames_first(self, x: Tensor, part: Part) -> Tensor:
        """A chunk of x (B, T, n) as (T, b, n), in the dtype of the states."""
        return x[part].transpose(0, 1).to(self.dtype)

    def steps(self, part: Part) -> tuple[Tensor, Tensor, Tensor]:
        """u, delta with its bias, and the resulting step sizes, (T, b, d_inner) each."""
        raw = self.frames_first(self.delta, part)
        raw = raw if self.bias is None else raw + self.bias
        return self.frames_first(self.u, part), raw, F.softplus(raw) if self.delta_softplus else raw

    def expand(self, part: Part, x: Tensor, step: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The chunk's decay (T, b, N, d_inner) and states (T + 1, b, N, d_inner), in buffers.

        state: (b, N, d_inner), the state before the chunk, which becomes states[0].
        """
        frames = len(step)
        decay = _view(self.buffers[0], (frames, *state.shape))
        states = _view(self.buffers[1], (frames + 1, *state.shape))
        # exp(a) = exp2(a · log2(e)); PyTorch's exp takes four times as long as exp2 on a CPU
        torch.mul(step[:, :, None], self.A * LOG2_E, out=decay).exp2_()
        states[0] = state
        B = self.frames_first(self.B, part)
        torch.mul(B[..., None], (step * x)[:, :, None], out=states[1:])
        recur(decay, states)
        return decay, states

    def output(self, part: Part, x: Tensor, states: Tensor) -> Tensor:
        """y before the gate, (T, b, d_inner)."""
        out = _sum_states(self.frames_first(self.C, part), states[1:])
        return out if self.D is None else out.addcmul_(self.D, x)

    def backward(
        self, part: Part, start: Tensor, grad_y: Tensor, grad_state: Tensor, grads: Sequence
    ) -> Tensor:
        """Write the chunk's gradients into `grads`; return the gradient of the state `start`."""
        grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias = grads
        x, raw, step = self.steps(part)
        decay, states = self.expand(part, x, step, start)
        gy = self.frames_first(grad_y, part)
        if self.z is not None:
            gate = self.frames_first(self.z, part)
            s = torch.sigmoid(gate)
            out = self.output(part, x, states)
            grad_z[part] = (gy * out * s * (1 + gate * (1 - s))).transpose(0, 1)
            gy = gy * gate * s
        grad_states = _view(self.buffers[2], decay.shape)  # d loss / d states[1:]
        torch.mul(self.frames_first(self.C, part)[..., None], gy[:, :, None], out=grad_states)
        grad_states[-1] += grad_state
        recur_back(decay, grad_states)
        grad_state = decay[0] * grad_states[0]

        grad_C[part] = _sum_channels(gy, states[1:]).transpose(0, 1)
        grad_B[part] = _sum_channels(step * x, grad_states).transpose(0, 1)
        grad_drive = _sum_states(self.frames_first(self.B, part), grad_states)  # drive = step · u
        # d loss / d (step · A), with d exp(a) / da = exp(a)
        grad_power = decay.mul_(states[:-1]).mul_(grad_states)
        grad_step = torch.mul(grad_power, self.A, out=grad_states).sum(2).addcmul_(grad_drive, x)
        grad_A += grad_power.mul_(step[:, :, None]).sum((0, 1))
        skip = 0 if self.D is None else self.D * gy
        grad_u[part] = (grad_drive * step + skip).transpose(0, 1)
        if self.delta_softplus:
            grad_step *= torch.sigmoid(raw)
        grad_delta[part] = grad_step.transpose(0, 1)
        if grad_D is not None:
            grad_D += (gy * x).sum((0, 1))
        if grad_bias is not None:
            grad_bias += grad_step.sum((0, 1))
        return grad_state


def plan(u: Tensor, A: Tensor) -> tuple[list[slice], list[slice]]:
    """Slices of u's clips and frames, such that a chunk has about `CHUNK_ELEMENTS` of state."""
    batch, frames, _ = u.shape
    rows = min(batch, max(1, GROUP_ELEMENTS // A.numel())) if _on_cpu(u) else batch
    budget = CHUNK_ELEMENTS["cpu" if _on_cpu(u) else "cuda"]
    length = min(MAX_CHUNK, max(MIN_CHUNK, budget // (rows * A.numel())))
    return _slices(batch, rows), _slices(frames, length)


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _view(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    return buffer[: math.prod(shape)].view(shape)


def recur(decay: Tensor, states: Tensor) -> None:
    """In place: states[t + 1] += decay[t] · states[t], for t = 0, 1, ..."""
    if _on_cpu(states):
        frames = states.unbind(0)
        for t, rate in enumerate(decay.unbind(0)):
            frames[t + 1].addcmul_(rate, frames[t])
        return
    recur_doubling(decay, states)


def recur_doubling(decay: Tensor, states: Tensor) -> None:
    """`recur` in log2(T) kernel launches per chunk instead of T, at the price of more arithmetic.

    Hillis and Steele's scan: after the pass with k, states[t] holds the contributions of frames
    t - 2k + 1 .. t, and reach[t] is the decay over the 2k frames up to t. Products of numbers in
    (0, 1] stay in (0, 1].
    """
    reach, k = decay.clone(), 1
    while k <= len(decay):
        states[k:] += reach[k - 1 :] * states[:-k]
        if 2 * k <= len(decay):
            reach[k:] = reach[k:] * reach[:-k]
        k *= 2


def recur_back(decay: Tensor, grads: Tensor) -> None:
    """In place: grads[t] += decay[t + 1] · grads[t + 1], from the last frame to the first."""
    if _on_cpu(grads):
        frames, rates = grads.unbind(0), decay.unbind(0)
        for t in range(len(frames) - 2, -1, -1):
            frames[t].addcmul_(rates[t + 1], frames[t + 1])
        return
    reversed_grads = grads.flip(0)
    recur_doubling(decay[1:].flip(0), reversed_grads)
    grads.copy_(reversed_grads.flip(0))


def _sum_states(weights: Tensor, states: Tensor) -> Tensor:
    """weights (T, b, N) · states (T, b, N, d_inner) -> (T, b, d_inner)."""
    return (weights[:, :, None] @ states)[:, :, 0]


def _sum_channels(weights: Tensor, states: Tensor) -> Tensor:
    """weights (T, b, d_inner) · states (T, b, N, d_inner) -> (T, b, N).

    The row vector is on the left because MKL takes nine times as long for states · column.
    """
    return (weights[:, :, None] @ states.transpose(-1, -2))[:, :, 0]

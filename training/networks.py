"""What a training run holds in memory: the network, its critic, their optimizer; on which device.

The lip reader and the frozen teacher live beside the network, which knows neither.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.errors import UserError
from config import Recipe, TrainConfig
from files.meshes import load_region
from jambatalk import JambaTalk
from layers.lean_linear import coarsen_gradients, gradient_dtype, make_lean
from lip_reader import LipReader
from speech.bodies import body_of
from speech.features import length_mask
from speech.pretrained import load_pretrained
from training.compact_adam import CompactAdamW, moment_dtype
from wav2vec import TextTeacher

CLOSURE_REACH_M = 0.002  # metres
COMPONENT_FRAMES = 2_000  # frames that a low-rank vertex head's start is computed from
AVERAGED_SHARE = 0.2  # of a run's steps, the most that averaged weights look back over


@dataclass
class Networks:
    """What a run trains, and the teacher that it does not."""

    model: JambaTalk
    reader: LipReader
    teacher: TextTeacher
    average: AveragedModel | None
    metres: float = 1.0  # a unit of the vertices, in units of the losses (TrainConfig.loss_unit)
    inner_lips: Tensor | None = None  # (2,) vertices that touch when the mouth is shut
    reach: float = 0.0  # opening in the data's unit from which lips are plainly apart
    source: str = ""  # of the pre-trained encoder and teacher: a folder or a hub name

    @property
    def best(self) -> JambaTalk:
        """The weights that are validated and saved."""
        return self.average.module if self.average is not None else self.model


def build(recipe: Recipe, device: torch.device, n_lips: int) -> Networks:
    """The networks of a recipe, encoder and teacher loaded from `recipe.wav2vec2`.

    n_lips: vertices that the lip reader sees. Raises `UserError` when the pre-trained encoder
    cannot be loaded or is of another shape, or torch.compile does not work here.
    """
    spec, config = recipe.dataset, recipe.train
    if config.compile:
        check_compiler(device)
    model = JambaTalk(recipe.model)
    if config.checkpointing:
        model.checkpoint_activations()
    make_lean(model)
    teacher = TextTeacher(load_encoder(model, recipe.wav2vec2))
    reader = LipReader(n_lips, teacher.width, teacher.n_characters, spec.fps, spec.metres_per_unit)
    model, reader, teacher = model.to(device), reader.to(device), teacher.to(device)
    decay = config.ema_decay
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
    nets = Networks(model, reader, teacher, average, spec.metres_per_unit / config.loss_unit)
    nets.source = recipe.wav2vec2
    if config.compile:
        for layer in model.encoder.body.encoder.layers:
            layer.compile()  # in place: its state keeps its names
    if config.closure_gain:
        inner = load_region(spec.path(spec.inner_lips), spec.n_vertices)
        nets.inner_lips = torch.from_numpy(inner).to(device)
        nets.reach = CLOSURE_REACH_M / spec.metres_per_unit
    return nets


def check_compiler(device: torch.device) -> None:
    """Raise `UserError` where torch.compile, tried on a small function, does not work."""
    try:
        torch.compile(torch.nn.functional.gelu)(torch.ones(2, device=device))
    except RuntimeError as error:  # what all of its errors are
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"train.compile: torch.compile does not work here ({reason}); install a C++ compiler "
            "(Linux: g++; with a GPU triton, too), or leave it false"
        ) from error


def load_encoder(model: JambaTalk, source: str) -> nn.Module:
    """Put pre-trained weights into the model's encoder, its convolutions frozen; returns the
    pre-trained model."""
    pretrained = load_pretrained(source)
    try:
        model.encoder.body.load_state_dict(body_of(pretrained).state_dict())
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--wav2vec2 {source}: not the recipe's encoder ({reason})") from error
    model.encoder.freeze_features()
    return pretrained


def memory(nets: Networks, optimizer: torch.optim.Optimizer) -> str:
    """Parameters and the memory that they take in training, in words."""
    trained, fixed = _parameters(nets, optimizer)
    n_trained, n_fixed = (sum(p.numel() for p in part) / 1e6 for part in (trained, fixed))
    whose = "the convolutions'; the teacher's were let go: the cache has what it hears"
    if nets.teacher.model is not None:
        whose = "the teacher's and the convolutions'"
    return (
        f"{n_trained:.1f} M parameters are trained, {n_fixed:.1f} M frozen ({whose}): "
        f"{training_bytes(nets, optimizer) / 1e9:.1f} GB with gradients and Adam, activations apart"
    )


def training_bytes(nets: Networks, optimizer: torch.optim.Optimizer) -> int:
    """What parameters, averages, gradients and moments take once all of them are there."""
    trained, fixed = _parameters(nets, optimizer)
    average = nets.average.parameters() if nets.average is not None else ()
    compact = isinstance(optimizer, CompactAdamW)
    total = sum(p.nbytes for p in (*trained, *fixed, *average))
    for p in trained:
        gradient, moment = gradient_dtype(p), moment_dtype(p) if compact else p.dtype
        total += p.numel() * (gradient.itemsize + 2 * moment.itemsize)
    return total


def _parameters(
    nets: Networks, optimizer: torch.optim.Optimizer
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Those that are trained, and those that are not."""
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    fixed = [p for p in nets.model.parameters() if not p.requires_grad]
    return trained, [*fixed, *nets.teacher.parameters()]


def start_average(nets: Networks, decay: float, steps: int) -> None:
    """Start averaging at the model as it is; a short run looks back over a fifth of its steps."""
    if nets.average is not None:
        shortened = min(decay, max(1.0 - 1.0 / (AVERAGED_SHARE * max(steps, 1)), 0.0))
        nets.average.multi_avg_fn = get_ema_multi_avg_fn(shortened)
        nets.average.module.load_state_dict(nets.model.state_dict())


def start_components(model: JambaTalk, batches: Iterable[dict[str, Any]]) -> None:
    """Start a low-rank vertex head from the principal components of the training offsets."""
    if model.head.coefficients is None:
        return
    rows, found = [], 0
    for batch in batches:
        offsets = (batch["vertices"] - batch["template"][:, None])[
            length_mask(batch["frames"], batch["vertices"].shape[1])
        ]
        rows.append(offsets[::3])
        found += len(rows[-1])
        if found >= COMPONENT_FRAMES:
            break
    offsets = torch.cat(rows) / model.config.units_per_metre  # (n, V, 3)
    mean = offsets.mean(0)
    flat, rank = (offsets - mean).flatten(1), model.config.vertex_rank
    _, scale, directions = torch.svd_lowrank(flat, q=min(rank + 8, *flat.shape))
    found = (directions.T * (scale / math.sqrt(len(offsets)))[:, None])[:rank]
    components = flat.new_zeros(rank, flat.shape[1])  # few frames span fewer than `rank`
    components[: len(found)] = found
    model.head.set_components(mean, components.unflatten(1, mean.shape))  # fmt: skip


def make_optimizer(
    nets: Networks, config: TrainConfig, steps: int, coarse: bool = False
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a rate of its own for the encoder; linear warm-up, then a cosine to zero.

    A short run warms up over a tenth of its steps at most. With `config.lean` moments are bfloat16
    and, if `coarse`, the encoder's gradients, too: for steps of one backward pass under bfloat16
    autocast on one process, which loses nothing.
    """
    encoder = [p for p in nets.model.encoder.parameters() if p.requires_grad]
    known = {id(p) for p in nets.model.encoder.parameters()}
    others = {name: p for name, p in nets.model.named_parameters() if id(p) not in known}
    others |= {f"reader.{name}": p for name, p in nets.reader.named_parameters()}
    # lists, never sets: a state stores moments by position, and sets of names are ordered anew in
    # every process
    plain = [name for name, p in others.items() if p.ndim < 2 or name.endswith("A_log")]
    decayed = [p for name, p in others.items() if name not in plain]
    groups = [
        {"params": decayed, "lr": config.learning_rate},
        {"params": encoder, "lr": config.encoder_learning_rate},
        {  # biases, norms, and what mamba_ssm exempts
            "params": [others[name] for name in plain],
            "lr": config.learning_rate,
            "weight_decay": 0.0,
        },
    ]
    settings = dict(weight_decay=config.weight_decay, betas=(0.9, 0.98))
    if config.lean:
        optimizer = CompactAdamW(groups, **settings)
        if coarse:
            coarsen_gradients(nets.model.encoder)
    else:
        optimizer = torch.optim.AdamW(groups, **settings, fused=True)

    warmup_steps = max(min(config.warmup_steps, steps // 10), 1)

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / warmup_steps)
        return warm * (0.5 + 0.5 * math.cos(math.pi * min(step / max(steps, 1), 1.0)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

"""AdamW and its learning rates, averaged weights, and the memory that a training takes."""

import math

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from config import TrainConfig
from layers.lean_linear import coarsen_gradients, gradient_dtype
from training.compact_adam import CompactAdamW, moment_dtype
from training.networks import Networks

AVERAGED_SHARE = 0.2  # of a run's steps, at most, over which weights are averaged
BETAS = (0.9, 0.98)


def make_optimizer(
    nets: Networks, config: TrainConfig, n_steps: int, coarse: bool = False
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a learning rate of its own for the encoder; linear warm-up, then a cosine to zero.

    n_steps: of the whole run; at most a tenth of them is warm-up. With `config.lean` moments are
    bfloat16 and, if `coarse`, the encoder's gradients, too (see `coarsen_gradients`): for steps of
    one backward pass on one process.
    """
    settings = dict(weight_decay=config.weight_decay, betas=BETAS)
    groups = parameter_groups(nets, config)
    if config.lean:
        optimizer = CompactAdamW(groups, **settings)
        if coarse:
            coarsen_gradients(nets.model.encoder)
    else:
        optimizer = torch.optim.AdamW(groups, **settings, fused=True)
    warmup_steps = max(min(config.warmup_steps, n_steps // 10), 1)

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / warmup_steps)
        return warm * (0.5 + 0.5 * math.cos(math.pi * min(step / max(n_steps, 1), 1.0)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def parameter_groups(nets: Networks, config: TrainConfig) -> list[dict]:
    """Groups for AdamW: matrices, the encoder's body, and what is not decayed (as in mamba_ssm).

    Lists in the order of the networks, never sets: a state stores moments by position, and sets
    of names are ordered differently in every process.
    """
    named = dict(nets.model.named_parameters())
    of_encoder = [n for n in named if n.startswith("encoder.") and n != "encoder.mix"]
    encoder = [named[name] for name in of_encoder if named[name].requires_grad]
    others = {name: p for name, p in named.items() if name not in of_encoder}
    others |= {f"reader.{name}": p for name, p in nets.reader.named_parameters()}
    plain = [name for name, p in others.items() if p.ndim < 2 or name.endswith("A_log")]
    decayed = [p for name, p in others.items() if name not in plain]
    return [
        {"params": decayed, "lr": config.learning_rate},
        {"params": encoder, "lr": config.encoder_learning_rate},
        {
            "params": [others[name] for name in plain],  # biases, norms, A_log
            "lr": config.learning_rate,
            "weight_decay": 0.0,
        },
    ]


def start_average(nets: Networks, decay: float, n_steps: int) -> None:
    """Start averaging at the model as it is, over a fifth of the run's steps at most."""
    if nets.average is not None:
        shortened = min(decay, max(1.0 - 1.0 / (AVERAGED_SHARE * max(n_steps, 1)), 0.0))
        nets.average.multi_avg_fn = get_ema_multi_avg_fn(shortened)
        nets.average.module.load_state_dict(nets.model.state_dict())


def memory_report(nets: Networks, optimizer: torch.optim.Optimizer) -> str:
    """One line: numbers of parameters and the memory that they take in training."""
    trained, frozen = _parameters(nets, optimizer)
    n_trained, n_frozen = (sum(p.numel() for p in part) / 1e6 for part in (trained, frozen))
    parts = "of the encoder: all targets of the teacher are cached, its weights are freed"
    if nets.teacher.model is not None:
        parts = "of the teacher and the encoder"
    total = training_bytes(nets, optimizer) / 1e9
    return (
        f"{n_trained:.1f} M parameters are trained, {n_frozen:.1f} M frozen ({parts}): "
        f"{total:.1f} GB with gradients and Adam's moments, without activations"
    )


def training_bytes(nets: Networks, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of parameters, averages, gradients and moments once all of them exist."""
    trained, frozen = _parameters(nets, optimizer)
    average = nets.average.parameters() if nets.average is not None else ()
    compact = isinstance(optimizer, CompactAdamW)
    total = sum(p.nbytes for p in (*trained, *frozen, *average))
    for p in trained:
        gradient, moment = gradient_dtype(p), moment_dtype(p) if compact else p.dtype
        total += p.numel() * (gradient.itemsize + 2 * moment.itemsize)
    return total


def _parameters(
    nets: Networks, optimizer: torch.optim.Optimizer
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(trained, frozen) parameters; the teacher's are frozen."""
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    frozen = [p for p in nets.model.parameters() if not p.requires_grad]
    return trained, [*frozen, *nets.teacher.parameters()]

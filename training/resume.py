"""Resuming a run: whether a state belongs to it, and what is packed into a state.

`state_file` writes and reads the file. The optimizer's moments are stored under the names of their
parameters, so that their order may differ between two processes.
"""

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from common.errors import UserError, reason_of
from config import RETIRED_FIELDS, Recipe
from training.compact_adam import MOMENTS
from training.networks import Networks
from training.processes import Group, SharedUserError
from training.run_log import BEST_FILE
from training.state_file import STATE_FILE, load_state

MAY_CHANGE = (  # where files lie, what only monitors, what computes the same in another way
    "dataset.root", "dataset.templates", "dataset.topology", "dataset.max_drift_s",
    "train.preview_every", "train.checkpointing", *RETIRED_FIELDS,
)  # fmt: skip
OTHER_VERSION = (
    "another version of this code saved it: continue with that version (its commit is in "
    "run.json), or start from the run's best model with --init"
)


def find_state(folder: Path, recipe: Recipe, group: Group) -> dict[str, Any] | None:
    """The state in a run's folder, None where no process finds one.

    Raises `UserError` when it is damaged, of another run, or visible to some processes only.
    """
    file = folder / STATE_FILE
    answers = group.gather((file.exists(), group.place))
    lacking = [place for exists, place in answers if not exists]
    if lacking and len(lacking) < len(answers):
        raise SharedUserError(
            f"--resume: {file} exists for {len(answers) - len(lacking)} of {len(answers)} "
            f"processes, not for {', '.join(lacking[:4])}; all machines must share the run folder"
        )
    if lacking:
        return None
    state = load_state(file)
    if changed := differences(state.get("recipe", {}), dataclasses.asdict(recipe)):
        if [name for name, _ in changed] == ["train.epochs"]:
            fix = longer_run_hint(folder, recipe.train.epochs)
        else:
            fix = "give the flags of that run, or another --out"
        listed = "; ".join(f"{name} {text}" for name, text in changed[:4])
        raise SharedUserError(f"--resume: {file} is of another run: {listed}; {fix}")
    return state


def longer_run_hint(folder: Path, epochs: int | str) -> str:
    """How to train on beyond the last epoch, and why --resume cannot do that."""
    return (
        "the learning rate falls to zero over all epochs, so a longer run is a new run; start it "
        f"from this model: --init {folder / BEST_FILE} --epochs {epochs} --out NEW"
    )


def differences(
    before: dict[str, Any], now: dict[str, Any], path: str = ""
) -> list[tuple[str, str]]:
    """(path, "was A, is B") of every field in which two recipes differ and may not.

    A field that is newer than `before` does not differ: the older code worked as its default does.
    """
    changed = []
    for name in sorted(before.keys() | now.keys()):
        where = f"{path}{name}"
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += differences(old, new, f"{where}.")
        elif name in before and _as_lists(old) != _as_lists(new) and where not in MAY_CHANGE:
            changed.append((where, f"was {old}, is {new}"))
    return changed


def _as_lists(value: Any) -> Any:
    """A value with its tuples as lists, as JSON has them."""
    return [_as_lists(one) for one in value] if isinstance(value, list | tuple) else value


def pack(nets: Networks, optimizer: Optimizer, schedule: LRScheduler) -> dict[str, Any]:
    """Weights, moments and schedule, for `unpack`."""
    names = parameter_names(nets)
    return {
        "model": nets.model.state_dict(),
        "reader": nets.reader.state_dict(),
        "average": nets.average.state_dict() if nets.average is not None else None,
        "moments": {names[id(p)]: moments for p, moments in optimizer.state.items()},
        "schedule": schedule.state_dict(),
    }


def state_bytes(nets: Networks, optimizer: Optimizer) -> int:
    """About how many bytes a state has: weights and two moments."""
    weights = [*nets.model.parameters(), *nets.reader.parameters()]
    weights += nets.average.parameters() if nets.average is not None else ()
    weights += 2 * [p for group in optimizer.param_groups for p in group["params"]]
    return sum(p.numel() * p.element_size() for p in weights)


def unpack(
    state: dict[str, Any], nets: Networks, optimizer: Optimizer, schedule: LRScheduler
) -> None:
    """Restore what `pack` returned. Raises `UserError` where it does not fit."""
    try:
        nets.model.load_state_dict(state["model"])
        nets.reader.load_state_dict(state["reader"])
        if nets.average is not None:
            nets.average.load_state_dict(state["average"])
    except (RuntimeError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"--resume: the weights do not fit ({reason_of(error)}); {OTHER_VERSION}"
        ) from error
    names = parameter_names(nets)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    shapes = {names[id(p)]: tuple(p.shape) for p in trained}
    places = {names[id(p)]: place for place, p in enumerate(trained)}
    for name, moments in state["moments"].items():
        for kind in (kind for kind in MOMENTS if kind in moments):
            got, expected = tuple(moments[kind].shape), shapes.get(name)
            if got != expected:
                raise UserError(
                    f"--resume: the optimizer's {kind} of {name}: expected shape "
                    f"{expected or 'none'}, got {got}; {OTHER_VERSION}"
                )
    by_place = {places[name]: moments for name, moments in state["moments"].items()}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": by_place})
    schedule.load_state_dict(state["schedule"])
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate


def parameter_names(nets: Networks) -> dict[int, str]:
    """id -> name of every parameter that a run may train."""
    parts: dict[str, nn.Module] = {"model": nets.model, "reader": nets.reader}
    return {
        id(parameter): f"{part}.{name}"
        for part, module in parts.items()
        for name, parameter in module.named_parameters()
    }

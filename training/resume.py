"""Where a stopped run goes on: is a state this run's, and what belongs into it.

`state_file` writes and reads the file. Moments of the optimizer are kept by the names of their
parameters, so that no order has to be the same in two processes.
"""

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from common.errors import UserError
from config import ModelConfig, Recipe
from training.networks import Networks
from training.processes import Group, SharedUserError
from training.run_log import BEST_FILE
from training.state_file import STATE_FILE, load_state

MAY_CHANGE = (  # where files lie, what is only looked at, what computes the same in another way
    "dataset.root", "dataset.templates", "dataset.topology", "train.preview_every",
    "train.checkpointing",
)  # fmt: skip
SHAPED = ("exp_avg", "exp_avg_sq")  # moments of Adam, of their parameter's shape


def find_state(folder: Path, recipe: Recipe, group: Group) -> dict[str, Any] | None:
    """The state in a run's folder, None where there is none on any rank.

    Raises `UserError` when it is damaged, of another run, or seen by some of the processes only.
    """
    file = folder / STATE_FILE
    seen = group.gather((file.exists(), group.place))
    lacking = [place for exists, place in seen if not exists]
    if lacking and len(lacking) < len(seen):
        raise SharedUserError(
            f"--resume: {file} is there for {len(seen) - len(lacking)} of {len(seen)} processes, "
            f"not for {', '.join(lacking[:4])}; all machines must share the folder of the run"
        )
    if lacking:
        return None
    state = load_state(file)
    if wrong := differences(state["recipe"], dataclasses.asdict(recipe)):
        if [name for name, _ in wrong] == ["train.epochs"]:
            fix = longer_run_hint(folder, recipe.train.epochs)
        else:
            fix = "give the flags of then, or another --out"
        said = "; ".join(f"{name} {words}" for name, words in wrong[:4])
        raise SharedUserError(f"--resume: {file} is of another run: {said}; {fix}")
    return state


def longer_run_hint(folder: Path, epochs: int | str) -> str:
    """How to train on beyond the last epoch, and why that is no resuming."""
    return (
        "the learning rate falls to zero over all epochs, so a longer run is another one: "
        f"--init {folder / BEST_FILE} --epochs {epochs} --out NEW starts it from here"
    )


def differences(then: dict[str, Any], now: dict[str, Any], path: str = "") -> list[tuple[str, str]]:
    """(path, "was A, is B") of every field in which two recipes differ and may not.

    A field that is newer than the state was not there to differ: its default is how it was.
    """
    found = []
    for name in sorted(then.keys() | now.keys()):
        where = f"{path}{name}"
        old, new = then.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{where}.")
        elif name in then and _plain(old) != _plain(new) and where not in MAY_CHANGE:
            found.append((where, f"was {old}, is {new}"))
    return found


def model_mismatch(then: ModelConfig, now: ModelConfig) -> str:
    """Why the weights of one network mean nothing in another, "" where they do.

    Dropout and masking leave weights as they are, and so does the unit of the vertices: a head
    with `units_per_metre` works in metres.
    """
    found = differences(dataclasses.asdict(then), dataclasses.asdict(now), "model.")
    wrong = [
        f"{name} {words}"
        for name, words in found
        if not name.endswith(("dropout", "units_per_metre", "layerdrop", "apply_spec_augment"))
        and not name.startswith("model.encoder.mask_")
    ]
    return "; ".join(wrong[:4])


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def pack(nets: Networks, optimizer: Optimizer, schedule: LRScheduler) -> dict[str, Any]:
    """Weights, moments and schedule, as `unpack` wants them."""
    names = names_of(nets)
    return {
        "model": nets.model.state_dict(),
        "reader": nets.reader.state_dict(),
        "average": nets.average.state_dict() if nets.average is not None else None,
        "moments": {names[id(p)]: kept for p, kept in optimizer.state.items()},
        "schedule": schedule.state_dict(),
    }


def size_of(nets: Networks, optimizer: Optimizer) -> int:
    """Bytes of a state, about: weights and two moments."""
    weights = [*nets.model.parameters(), *nets.reader.parameters()]
    weights += nets.average.parameters() if nets.average is not None else ()
    weights += 2 * [p for group in optimizer.param_groups for p in group["params"]]
    return sum(p.numel() * p.element_size() for p in weights)


def unpack(
    state: dict[str, Any], nets: Networks, optimizer: Optimizer, schedule: LRScheduler
) -> None:
    """Put everything of `pack` back. Raises `UserError` where it does not fit."""
    try:
        nets.model.load_state_dict(state["model"])
        nets.reader.load_state_dict(state["reader"])
        if nets.average is not None:
            nets.average.load_state_dict(state["average"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"--resume: the weights do not fit ({reason}); {_older()}") from error
    names = names_of(nets)
    order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    shapes = {names[id(p)]: p.shape for group in optimizer.param_groups for p in group["params"]}
    moments = state["moments"] if "moments" in state else by_name(state["optimizer"], order)
    for name, kept in moments.items():
        for kind in (kind for kind in SHAPED if kind in kept):
            wanted = tuple(shapes.get(name, ()))
            if name not in shapes or tuple(kept[kind].shape) != wanted:
                raise UserError(
                    f"--resume: the optimizer's {kind} of {name} is {tuple(kept[kind].shape)}, "
                    f"wanted {wanted or 'none'}; {_older()}"
                )
    places = {name: place for place, name in enumerate(order)}
    found = optimizer.state_dict() | {"state": {places[n]: kept for n, kept in moments.items()}}
    optimizer.load_state_dict(found)
    schedule.load_state_dict(state["schedule"])
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate


def by_name(positional: dict[str, Any], order: list[str]) -> dict[str, Any]:
    """Moments by name of an optimizer's own state, which has them by position: older states."""
    places = [place for group in positional["param_groups"] for place in group["params"]]
    if len(places) != len(order):
        raise UserError(
            f"--resume: the optimizer had {len(places)} parameters, now {len(order)}; {_older()}"
        )
    named = dict(zip(places, order, strict=True))
    return {named[place]: kept for place, kept in positional["state"].items()}


def names_of(nets: Networks) -> dict[int, str]:
    """id -> name of every parameter that a run may train."""
    parts: dict[str, nn.Module] = {"model": nets.model, "reader": nets.reader}
    return {
        id(parameter): f"{part}.{name}"
        for part, module in parts.items()
        for name, parameter in module.named_parameters()
    }


def _older() -> str:
    return (
        "another version of this code saved it: go on with that one (its commit is in run.json), "
        "or start anew from the run's best model with --init"
    )

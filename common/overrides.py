"""Recipes from JSON and from the command line: every value checked against its field's type.

`--set train.epochs=3 model.layout=B` replaces fields of a recipe's dataset, model or train by
their dotted path; a name that only one of the three has needs no path. The flags of main.py that
name a field go the same way.
"""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable
from typing import Any

from common.errors import UserError
from config import LAYOUTS, Box, DatasetSpec, ModelConfig, Recipe, Split, TrainConfig

PARTS: dict[str, type] = {"dataset": DatasetSpec, "model": ModelConfig, "train": TrainConfig}
LETTERS = "MEA"  # of a layout
ENCODER_HZ = 50  # wav2vec 2.0's own frames a second
POSITIVE = (  # fields that are whole numbers from 1
    "dataset.fps", "dataset.source_fps", "dataset.n_vertices", "model.fps", "model.n_vertices",
    "model.fold", "model.d_model", "model.d_state", "model.d_conv", "model.expand",
    "model.moe_d_state", "model.moe_d_conv", "model.n_experts", "model.top_k", "model.n_heads",
    "model.n_kv_heads", "model.rope_rank", "model.d_ff", "train.epochs", "train.batch_size",
    "train.accumulate",
)  # fmt: skip
NOT_NEGATIVE = (
    "model.vertex_rank", "train.warmup_steps", "train.weight_decay", "train.w_vertex",
    "train.w_velocity", "train.w_latent", "train.w_ctc", "train.w_balance", "train.w_lips",
    "train.closure_gain", "train.max_clip_s", "train.steps_per_epoch", "train.seed",
    "train.preview_every",
)  # fmt: skip
ABOVE_ZERO = (
    "dataset.metres_per_unit", "model.units_per_metre", "train.loss_unit", "train.grad_clip",
)  # fmt: skip
FRACTIONS = (  # from 0 up to, not including, 1
    "train.learning_rate", "train.encoder_learning_rate", "train.ema_decay", "model.dropout",
)  # fmt: skip


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Rebuild a (nested) frozen dataclass from `dataclasses.asdict` after a trip through JSON.

    Raises `UserError` naming unknown or missing fields, which means another version wrote it.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UserError(
            f"{cls.__name__}: unknown field(s) {', '.join(unknown)}; "
            "the file was written by another version of this project"
        )
    kwargs = {name: _from_json(fields[name].type, value) for name, value in values.items()}
    try:
        return cls(**kwargs)
    except TypeError as error:
        raise UserError(
            f"{cls.__name__}: {error}; the file was written by another version"
        ) from error


def _from_json(kind: Any, value: Any) -> Any:
    if kind in (dict[str, Split], dict[str, Box]):
        part = typing.get_args(kind)[1]
        return {name: from_dict(part, entry) for name, entry in value.items()}
    if isinstance(value, list):
        return tuple(value)
    if dataclasses.is_dataclass(kind):
        return from_dict(kind, value)
    return value


def override(recipe: Recipe, settings: Iterable[tuple[str, str, str]]) -> Recipe:
    """`recipe` with settings put in: triples of what was typed, the field, and its new value.

    Raises `UserError`, one line that begins with what was typed, for an unknown field (with those
    that look alike), a value of another type, or numbers that make no network.
    """
    typed: dict[str, str] = {}
    for said, name, text in settings:
        part, field, inner = _find(said, name)
        typed[f"{part}.{field}"] = said
        recipe = _replaced(recipe, part, field, inner, text, said)
    check(recipe, typed)
    return recipe


def parse_settings(settings: Iterable[str]) -> list[tuple[str, str, str]]:
    """What follows --set, ["train.epochs=3", ...], as `override` wants it."""
    found = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: wanted field=value, as in train.epochs=3")
        found.append((f"--set {setting}", name.strip(), text.strip()))
    return found


def with_base(spec: DatasetSpec, base: Recipe) -> Recipe:
    """The recipe of a data set with another recipe's network, encoder and training.

    Frames are folded so that the encoder runs at 50 Hz or a little below, as in the paper's BIWI;
    at the base's own frame rate as there.
    """
    model, train = base.model, base.train
    fold = model.fold if spec.fps == model.fps else max(1, ENCODER_HZ // spec.fps)
    rank = min(model.vertex_rank, 3 * spec.n_vertices)
    model = dataclasses.replace(
        model, n_vertices=spec.n_vertices, fps=spec.fps, fold=fold, vertex_rank=rank,
        units_per_metre=1.0 / spec.metres_per_unit,
    )  # fmt: skip
    if not spec.inner_lips:
        train = dataclasses.replace(train, closure_gain=0.0)
    return Recipe(dataset=spec, model=model, train=train, wav2vec2=base.wav2vec2)


def _find(said: str, name: str) -> tuple[str, str, str]:
    """(part, field, key inside a field that is a dict) of a dotted path or a bare name."""
    known = {f"{part}.{f.name}" for part, cls in PARTS.items() for f in dataclasses.fields(cls)}
    part, _, rest = name.partition(".")
    if part not in PARTS:
        part, rest = "", name
    field, _, inner = rest.partition(".")
    found = [path for path in sorted(known) if path.partition(".")[2] == field]
    if part:
        found = [path for path in found if path.startswith(f"{part}.")]
    if len(found) > 1:
        raise UserError(f"{said}: {' or '.join(found)}? give the whole path")
    if not found:
        full: dict[str, list[str]] = {}
        for path in sorted(known):
            full.setdefault(path.partition(".")[2], []).append(path)
        close = [path for bare in difflib.get_close_matches(field, full) for path in full[bare]]
        hint = f"did you mean {' or '.join(close)}?" if close else "config.py lists them"
        raise UserError(f"{said}: no such field; {hint}")
    part, _, field = found[0].partition(".")
    return part, field, inner


def _replaced(recipe: Recipe, part: str, field: str, inner: str, text: str, said: str) -> Recipe:
    old = getattr(recipe, part)
    kind = {f.name: f.type for f in dataclasses.fields(old)}[field]
    if inner:
        value = _with_key(getattr(old, field), kind, inner, text, said)
    elif (part, field) == ("model", "layout"):
        value = layout_of(text, old.layout)
    else:
        value = _parse(kind, text, said)
    return dataclasses.replace(recipe, **{part: dataclasses.replace(old, **{field: value})})


def _with_key(old: Any, kind: Any, key: str, text: str, said: str) -> dict[str, Any]:
    """A dict with the value at a key replaced: model.encoder.hidden_size=32."""
    if typing.get_origin(kind) is not dict:
        raise UserError(f"{said}: that field has no parts; it is {_name(kind)}")
    inside = typing.get_args(kind)[1]
    return old | {key: _json(text) if inside is Any else _parse(inside, text, said)}


def layout_of(text: str, old: str) -> str:
    """The letters of a layout: `text` itself, or the ablated order A, B, C, D as long as `old`."""
    if text not in LAYOUTS:
        return text
    fitting = [layout for layout in LAYOUTS[text] if len(layout) == len(old)]
    return fitting[0] if fitting else LAYOUTS[text][0]


def _parse(kind: Any, text: str, said: str) -> Any:
    """`text` as a value of an annotated type; `UserError` where it is none."""
    if kind is str:
        return text
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() in words:
            return words[text.lower()]
    elif kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    else:
        return _container(kind, text, said)
    raise UserError(f"{said}: wanted {_name(kind)}")


def _container(kind: Any, text: str, said: str) -> Any:
    """A tuple from JSON or from words between commas; a dict or a dataclass from JSON."""
    value = _json(text)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            value = [_json(word) for word in text.split(",") if word]
        wanted = typing.get_args(kind)
        wanted = (wanted[0],) * len(value) if wanted[-1] is Ellipsis else wanted
        if len(value) == len(wanted) and all(map(_is_a, value, wanted)):
            return tuple(value)
    elif isinstance(value, dict):
        try:
            return _from_json(kind, value)
        except (AttributeError, TypeError, UserError) as error:
            reason = str(error).partition(";")[0]
            raise UserError(f"{said}: that JSON does not fit the field ({reason})") from error
    raise UserError(f"{said}: wanted {_name(kind)}")


def _is_a(value: Any, kind: type) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole if kind is int else isinstance(value, int | float) if kind is float else (
        isinstance(value, kind)
    )  # fmt: skip


def _json(text: str) -> Any:
    """`text` as JSON where it is any, else as it stands."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _name(kind: Any) -> str:
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if kind in plain:
        return plain[kind]
    origin = typing.get_origin(kind)
    if origin is tuple:
        inside = typing.get_args(kind)[0]
        return f"{plain.get(inside, str(inside))}s between commas".replace("a ", "", 1)
    return "a JSON object" if origin is dict or isinstance(kind, types.GenericAlias) else str(kind)


def check(recipe: Recipe, typed: dict[str, str] | None = None) -> None:
    """Raise `UserError` for numbers that make no network or no training.

    typed: path of a field -> what the user typed to set it, to be named in the message.
    """
    typed = typed or {}
    flat = {
        f"{part}.{f.name}": getattr(getattr(recipe, part), f.name)
        for part, cls in PARTS.items()
        for f in dataclasses.fields(cls)
    }

    def wrong(path: str, wanted: str) -> UserError:
        return UserError(f"{typed.get(path, f'{path} {flat[path]}')}: wanted {wanted}")

    for paths, holds, wanted in (
        (POSITIVE, lambda value: value >= 1, "1 or more"),
        (NOT_NEGATIVE, lambda value: value >= 0, "0 or more"),
        (ABOVE_ZERO, lambda value: value > 0, "more than 0"),
        (FRACTIONS, lambda value: 0 <= value < 1, "0 to 1"),
    ):
        for path in paths:
            if not holds(flat[path]):
                raise wrong(path, wanted)
    c, spec = recipe.model, recipe.dataset
    faults = (
        ("model.layout", not c.layout or set(c.layout) - set(LETTERS),
         "letters M (Mamba), E (MoE-Mamba), A (Transformer), or an ablated order A, B, C, D"),
        ("model.n_heads", c.d_model % c.n_heads, f"a divisor of d_model {c.d_model}"),
        ("model.n_heads", c.d_model // c.n_heads % 2, f"d_model {c.d_model} / n_heads to be even"),
        ("model.n_kv_heads", c.n_heads % c.n_kv_heads, f"a divisor of n_heads {c.n_heads}"),
        ("model.top_k", c.top_k > c.n_experts, f"at most n_experts {c.n_experts}"),
        ("model.vertex_rank", c.vertex_rank > 3 * c.n_vertices, f"at most {3 * c.n_vertices}"),
        ("model.fps", c.fps != spec.fps, f"the frame rate of the data, dataset.fps {spec.fps}"),
        ("model.n_vertices", c.n_vertices != spec.n_vertices,
         f"the vertices of the data, dataset.n_vertices {spec.n_vertices}"),
        ("dataset.source_fps", spec.source_fps % spec.fps, f"a multiple of fps {spec.fps}"),
        ("train.steps_per_epoch", spec.speech_pool and not recipe.train.steps_per_epoch,
         "1 or more: the speech pool has no end"),
        ("train.closure_gain", recipe.train.closure_gain and not spec.inner_lips,
         f"0, or dataset.inner_lips: {spec.name} does not say where its inner lips are"),
    )  # fmt: skip
    for path, is_wrong, wanted in faults:
        if is_wrong:
            raise wrong(path, wanted)

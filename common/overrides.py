"""Recipes from JSON and from the command line: each value is checked against its field's type.

`--set train.epochs=3 model.layout=B` replaces fields of a recipe's dataset, model or train by
their dotted path. A field name that only one of the three has needs no path. main.py's short flags
for single fields (--epochs) are parsed the same way.
"""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable
from typing import Any

from common.errors import UserError, reason_of
from common.frame_rates import parse_rate, stored_rate
from config import (
    LAYERS,
    LAYOUTS,
    MODELS,
    RECIPES,
    RETIRED_FIELDS,
    Box,
    DatasetSpec,
    ModelConfig,
    Recipe,
    Split,
    TrainConfig,
)

MAX_LAYERS, MAX_FPS = 256, 240  # of a model from outside
MAX_NUMBER = 1e30  # of any field; a longer integer is no float
PARTS: dict[str, type] = {"dataset": DatasetSpec, "model": ModelConfig, "train": TrainConfig}
POSITIVE = (  # integers >= 1
    "dataset.fps", "dataset.n_vertices", "model.fps", "model.n_vertices",
    "model.fold", "model.d_model", "model.d_state", "model.d_conv", "model.expand",
    "model.moe_d_state", "model.moe_d_conv", "model.n_experts", "model.top_k", "model.n_heads",
    "model.n_kv_heads", "model.d_ff", "train.epochs", "train.batch_size",
    "train.accumulate",
)  # fmt: skip
NOT_NEGATIVE = (  # numbers >= 0
    "dataset.max_drift_s", "model.vertex_rank", "model.rope_rank",
    "train.warmup_steps", "train.weight_decay", "train.w_vertex",
    "train.w_velocity", "train.w_latent", "train.w_ctc", "train.w_balance", "train.w_lips",
    "train.w_open", "train.w_details", "train.w_code",
    "train.closure_gain", "train.noisy_gain", "train.max_clip_s", "train.steps_per_epoch",
    "train.takes", "train.seed", "train.preview_every",
)  # fmt: skip
ABOVE_ZERO = (  # numbers > 0
    "dataset.metres_per_unit", "model.units_per_metre", "train.loss_unit", "train.grad_clip",
)  # fmt: skip
FRACTIONS = (  # 0 <= number < 1
    "train.learning_rate", "train.encoder_learning_rate", "train.ema_decay", "model.dropout",
    "model.prior_share",
)  # fmt: skip


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Rebuild a (nested) frozen dataclass from `dataclasses.asdict` stored as JSON.

    Ignores `RETIRED_FIELDS`. Raises `UserError` for a value of another type than the field's, and
    for unknown or missing fields: the file comes from another version.
    """
    if not isinstance(values, dict):
        raise UserError(f"{cls.__name__}: expected a JSON object, got {str(values)[:40]!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    part = next((part for part, kind in PARTS.items() if kind is cls), "")
    values = {k: value for k, value in values.items() if f"{part}.{k}" not in RETIRED_FIELDS}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UserError(
            f"{cls.__name__}: unknown field(s) {', '.join(unknown)}; "
            "the file was written by another version of this project"
        )
    for name, value in values.items():
        kind = fields[name].type
        if not _is_of(value, kind):
            raise UserError(
                f"{cls.__name__}: {name}: expected {_name(kind)}, got {str(value)[:40]!r}"
            )
    kwargs = {name: _from_json(fields[name].type, value) for name, value in values.items()}
    try:
        return cls(**kwargs)
    except TypeError as error:
        raise UserError(
            f"{cls.__name__}: {reason_of(error)}; "
            "the file was written by another version of this project"
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


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value from JSON can be one of the annotated type `kind`."""
    if isinstance(kind, types.UnionType):
        return any(_is_of(value, part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if not isinstance(value, list | tuple):
            return False
        kinds = (kinds[0],) * len(value) if kinds[-1] is Ellipsis else kinds
        return len(value) == len(kinds) and all(map(_is_of, value, kinds))
    if typing.get_origin(kind) is dict or dataclasses.is_dataclass(kind):
        return isinstance(value, dict)
    if kind in (int, float):
        return _is_a(value, kind) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
    return isinstance(value, kind)


def override(recipe: Recipe, settings: Iterable[tuple[str, str, str]]) -> Recipe:
    """`recipe` with fields replaced; settings: triples (flag as typed, field, new value as text).

    Raises `UserError`, a line that begins with the flag as typed, for an unknown field (with
    similar names as suggestions), a value of the wrong type, or values that contradict each other.
    """
    typed: dict[str, str] = {}
    for flag, name, text in settings:
        part, field, key = _find(flag, name)
        typed[f"{part}.{field}"] = flag
        recipe = _replaced(recipe, part, field, key, text, flag)
    check(recipe, typed)
    return recipe


def parse_settings(settings: Iterable[str]) -> list[tuple[str, str, str]]:
    """The arguments of --set, ["train.epochs=3", ...], as triples for `override`."""
    triples = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: expected field=value, as in train.epochs=3")
        triples.append((f"--set {setting}", name.strip(), text.strip()))
    return triples


def _find(flag: str, name: str) -> tuple[str, str, str]:
    """(part, field, key inside a dict field) for a dotted path or a bare field name."""
    known = {f"{part}.{f.name}" for part, cls in PARTS.items() for f in dataclasses.fields(cls)}
    part, _, rest = name.partition(".")
    if part not in PARTS:
        part, rest = "", name
    field, _, key = rest.partition(".")
    matches = [path for path in sorted(known) if path.partition(".")[2] == field]
    if part:
        matches = [path for path in matches if path.startswith(f"{part}.")]
    if len(matches) > 1:
        raise UserError(f"{flag}: {' or '.join(matches)}? give the whole path")
    if not matches:
        full: dict[str, list[str]] = {}
        for path in sorted(known):
            full.setdefault(path.partition(".")[2], []).append(path)
        close = [path for bare in difflib.get_close_matches(field, full) for path in full[bare]]
        hint = f"did you mean {' or '.join(close)}?" if close else "config.py lists the fields"
        raise UserError(f"{flag}: no such field; {hint}")
    part, _, field = matches[0].partition(".")
    return part, field, key


def _replaced(recipe: Recipe, part: str, field: str, key: str, text: str, flag: str) -> Recipe:
    old = getattr(recipe, part)
    kind = {f.name: f.type for f in dataclasses.fields(old)}[field]
    if key:
        value = _with_key(getattr(old, field), kind, key, text, flag)
    elif (part, field) == ("model", "layout"):
        value = layout_of(text, old.layout)
    elif (part, field) == ("dataset", "source_fps"):
        value = stored_rate(parse_rate(text, flag))
    else:
        value = _parse(kind, text, flag)
    return dataclasses.replace(recipe, **{part: dataclasses.replace(old, **{field: value})})


def _with_key(old: Any, kind: Any, key: str, text: str, flag: str) -> dict[str, Any]:
    """The dict field `old` with one key replaced, as in model.encoder.hidden_size=32."""
    if typing.get_origin(kind) is not dict:
        raise UserError(f"{flag}: the field has no keys; it is {_name(kind)}")
    value_kind = typing.get_args(kind)[1]
    return old | {key: _json(text) if value_kind is Any else _parse(value_kind, text, flag)}


def layout_of(text: str, old: str) -> str:
    """A layout string: `text` itself, or the ablation A, B, C or D with the length of `old`."""
    if text not in LAYOUTS:
        return text
    same_length = [layout for layout in LAYOUTS[text] if len(layout) == len(old)]
    return same_length[0] if same_length else LAYOUTS[text][0]


def _parse(kind: Any, text: str, flag: str) -> Any:
    """`text` as a value of the annotated type `kind`; raises `UserError` if it is not one."""
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
        return _container(kind, text, flag)
    raise UserError(f"{flag}: expected {_name(kind)}")


def _container(kind: Any, text: str, flag: str) -> Any:
    """A tuple from a JSON list or comma-separated words; a dict or a dataclass from JSON."""
    value = _json(text)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            value = [_json(word) for word in text.split(",") if word]
        kinds = typing.get_args(kind)
        kinds = (kinds[0],) * len(value) if kinds[-1] is Ellipsis else kinds
        if len(value) == len(kinds) and all(map(_is_a, value, kinds)):
            return tuple(value)
    elif isinstance(value, dict):
        try:
            return _from_json(kind, value)
        except (AttributeError, TypeError, UserError) as error:
            reason = reason_of(error).partition(";")[0]
            raise UserError(f"{flag}: the JSON does not match the field ({reason})") from error
    raise UserError(f"{flag}: expected {_name(kind)}")


def _is_a(value: Any, kind: type) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole if kind is int else isinstance(value, int | float) if kind is float else (
        isinstance(value, kind)
    )  # fmt: skip


def _json(text: str) -> Any:
    """`text` parsed as JSON, or `text` itself if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _name(kind: Any) -> str:
    """An annotated type in the words of an error message."""
    plain = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    if kind in plain:
        return plain[kind]
    origin = typing.get_origin(kind)
    if origin is tuple:
        items = {int: "integers", float: "numbers", str: "words"}
        return f"comma-separated {items[typing.get_args(kind)[0]]}"
    return "a JSON object" if origin is dict or isinstance(kind, types.GenericAlias) else str(kind)


def check_model(config: ModelConfig) -> None:
    """`check` for a network alone."""
    spec = dataclasses.replace(
        RECIPES[next(iter(RECIPES))].dataset, fps=config.fps, n_vertices=config.n_vertices
    )
    check(Recipe(spec, config, TrainConfig(), ""))


def check(recipe: Recipe, typed: dict[str, str] | None = None) -> None:
    """Raise `UserError` for values out of range or values that contradict each other.

    typed: dotted path of a field -> the flag that set it, for the message.
    """
    typed = typed or {}
    flat = {
        f"{part}.{f.name}": getattr(getattr(recipe, part), f.name)
        for part, cls in PARTS.items()
        for f in dataclasses.fields(cls)
    }

    def wrong(path: str, expected: str) -> UserError:
        return UserError(f"{typed.get(path, f'{path} {flat[path]}')}: expected {expected}")

    for paths, holds, expected in (
        (POSITIVE, lambda value: value >= 1, "1 or more"),
        (NOT_NEGATIVE, lambda value: value >= 0, "0 or more"),
        (ABOVE_ZERO, lambda value: value > 0, "more than 0"),
        (FRACTIONS, lambda value: 0 <= value < 1, "0 or more and less than 1"),
    ):
        for path in paths:
            if not holds(flat[path]):
                raise wrong(path, expected)
    c, spec = recipe.model, recipe.dataset
    faults = (
        ("model.model", c.model not in MODELS, f"one of {', '.join(MODELS)}"),
        ("model.layout", len(c.layout) > MAX_LAYERS, f"at most {MAX_LAYERS} letters"),
        ("model.n_experts", c.n_experts > MAX_LAYERS, f"at most {MAX_LAYERS}"),
        ("model.fps", c.fps > MAX_FPS, f"at most {MAX_FPS}"),
        ("model.layout", not c.layout or set(c.layout) - set(LAYERS),
         f"letters {', '.join(f'{letter} ({name})' for letter, name in LAYERS.items())}, or an "
         f"ablation {', '.join(LAYOUTS)}"),
        ("model.n_heads", c.d_model % c.n_heads, f"a divisor of d_model {c.d_model}"),
        ("model.n_heads", c.d_model // c.n_heads % 2, "an even d_model / n_heads"),
        ("model.n_kv_heads", c.n_heads % c.n_kv_heads, f"a divisor of n_heads {c.n_heads}"),
        ("model.top_k", c.top_k > c.n_experts, f"at most n_experts {c.n_experts}"),
        ("model.vertex_rank", c.vertex_rank > 3 * c.n_vertices, f"at most {3 * c.n_vertices}"),
        ("model.fps", c.fps != spec.fps, f"dataset.fps, {spec.fps}"),
        ("model.n_vertices", c.n_vertices != spec.n_vertices,
         f"dataset.n_vertices, {spec.n_vertices}"),
        ("train.augment", recipe.train.augment and recipe.train.takes,
         "false: takes have their own noise and rooms"),
        ("train.closure_gain", recipe.train.closure_gain and not spec.inner_lips,
         f"0, as {spec.name} has no dataset.inner_lips"),
        ("train.noisy_gain", recipe.train.noisy_gain and not recipe.train.closure_gain,
         "0 without train.closure_gain, to which it is added"),
        ("train.noisy_gain", recipe.train.noisy_gain and not recipe.train.takes,
         "0 without train.takes, of which alone the noise is known"),
        ("train.w_open", recipe.train.w_open and not spec.inner_lips,
         f"0, as {spec.name} has no dataset.inner_lips"),
    )  # fmt: skip
    for path, is_wrong, expected in faults:
        if is_wrong:
            raise wrong(path, expected)

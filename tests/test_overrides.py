"""--set field=value: every type of field, and the messages for values that do not fit."""

import dataclasses
import json

import pytest

from common.errors import UserError
from common.overrides import PARTS, check, from_dict, override, parse_settings
from config import LAYOUTS, RECIPES, DatasetSpec, ModelConfig, Recipe, Split, TrainConfig
from dataset.base_recipe import with_base


def changed(*settings: str, recipe: str = "vocaset") -> Recipe:
    return override(RECIPES[recipe], parse_settings(settings))


def test_fields_are_set_by_path_or_by_a_unique_name() -> None:
    recipe = changed("train.epochs=3", "model.n_kv_heads=8", "rope_rank=8", "n_experts=4")
    assert recipe.train.epochs == 3
    c = recipe.model
    assert (c.n_kv_heads, c.rope_rank, c.n_experts) == (8, 8, 4)
    assert RECIPES["vocaset"].train.epochs == 100  # recipes are not touched


@pytest.mark.parametrize(
    ("setting", "part", "field", "value"),
    [
        ("train.learning_rate=2e-5", "train", "learning_rate", 2e-5),
        ("train.max_clip_s=3", "train", "max_clip_s", 3.0),
        ("train.augment=yes", "train", "augment", True),
        ("train.augment=False", "train", "augment", False),
        ("dataset.lips_region=lve.txt", "dataset", "lips_region", "lve.txt"),
        ("dataset.other_roots=a,b/c", "dataset", "other_roots", ("a", "b/c")),
        ('dataset.other_roots=["a"]', "dataset", "other_roots", ("a",)),
        ("other_roots=", "dataset", "other_roots", ()),
    ],
)
def test_values_get_the_type_of_their_field(
    setting: str, part: str, field: str, value: object
) -> None:
    parsed = getattr(getattr(changed(setting), part), field)
    assert parsed == value and type(parsed) is type(value)


def test_single_keys_of_dict_fields_are_set() -> None:
    recipe = changed(
        "model.encoder.hidden_size=32",
        'dataset.splits.dev={"subjects": ["a"], "sentences": [1, 2], "prefix": "e"}',
    )
    assert recipe.model.encoder == RECIPES["vocaset"].model.encoder | {"hidden_size": 32}
    assert recipe.dataset.splits["dev"] == Split(("a",), (1, 2), "e")
    assert list(recipe.dataset.splits) == ["train", "val", "test", "dev"]


@pytest.mark.parametrize("variant", LAYOUTS)
def test_ablations_are_set_by_their_letter(variant: str) -> None:
    """[first] A [second] and one more, as the poster draws them, for N = 1 and N = 2."""
    first = {"A": "ME", "B": "EM", "C": "ME", "D": "EM"}[variant]
    second = {"A": "EME", "B": "EME", "C": "MEM", "D": "MEM"}[variant]
    for recipe, n in (("vocaset", 1), ("BIWI", 2)):
        layout = changed(f"model.layout={variant}", recipe=recipe).model.layout
        assert layout == n * first + "A" + (n - 1) * second[:2] + second
    assert changed("model.layout=EMAEME").model.layout == LAYOUTS["B"][0]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epoch=3", "no such field; did you mean train.epochs"),
        ("n_kvheads=2", "did you mean model.n_kv_heads"),
        ("model.fsp=25", "did you mean dataset.fps or model.fps?"),
        ("model.xyzzy=2", "no such field; config.py lists the fields"),
        ("fps=25", "dataset.fps or model.fps? give the whole path"),
        ("train.epochs", "expected field=value, as in train.epochs=3"),
        ("train.epochs=2.5", "expected an integer"),
        ("train.epochs=0", "expected 1 or more"),
        ("train.seed=-1", "expected 0 or more"),
        ("train.learning_rate=fast", "expected a number"),
        ("train.learning_rate=1.5", "expected 0 or more and less than 1"),
        ("train.learning_rate=nan", "expected 0 or more and less than 1"),
        ("train.grad_clip=0", "expected more than 0"),
        ("train.augment=perhaps", "expected true or false"),
        ("dataset.other_roots=[1]", "expected comma-separated words"),
        ("model.encoder=7", "expected a JSON object"),
        ("model.d_model.x=7", "the field has no keys; it is an integer"),
        ('dataset.splits={"train": 3}', "does not match the field"),
        ('dataset.splits.train={"people": ["a"]}', "unknown field(s) people"),
        ("model.layout=MXA", "letters M (Mamba), E (MoE-Mamba), A (Transformer)"),
        ("model.n_heads=7", "expected a divisor of d_model 512"),
        ("model.n_heads=512", "an even d_model / n_heads"),
        ("model.n_kv_heads=3", "expected a divisor of n_heads 8"),
        ("model.rope_rank=-1", "expected 0 or more"),
        ("model.top_k=3", "at most n_experts 2"),
        ("model.fps=25", "expected dataset.fps, 30"),
        ("model.n_vertices=7", "expected dataset.n_vertices, 5023"),
        ("dataset.source_fps=1/2", "expected frames a second from 1 to 1000"),
        ("train.closure_gain=9", "expected 0, as vocaset has no dataset.inner_lips"),
        ("train.noisy_gain=9", "expected 0 without train.closure_gain, to which it is added"),
        ("train.w_open=9", "expected 0, as vocaset has no dataset.inner_lips"),
    ],
)
def test_a_value_that_does_not_fit_is_reported_in_one_line_that_begins_with_the_flag(
    setting: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        changed(setting)
    error = str(caught.value)
    assert message in error and "\n" not in error
    assert error.startswith(f"--set {setting}")


def test_a_gain_in_noise_needs_takes() -> None:
    settings = [("--set", "train.takes", "0"), ("--set", "train.noisy_gain", "6")]
    with pytest.raises(UserError, match="expected 0 without train.takes, of which alone the noise"):
        override(RECIPES["synthetic"], settings)


def test_every_recipe_passes_the_check() -> None:
    for recipe in RECIPES.values():
        check(recipe)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_rebuilt_from_json(name: str) -> None:
    for part, cls in PARTS.items():
        value = getattr(RECIPES[name], part)
        again = from_dict(cls, json.loads(json.dumps(dataclasses.asdict(value))))
        if cls is ModelConfig:  # its encoder is a dict of transformers: lists come back as tuples
            again = dataclasses.replace(again, encoder=value.encoder)
        assert again == value


def test_json_of_another_version_is_refused() -> None:
    with pytest.raises(UserError, match="TrainConfig: unknown field.*momentum; .*another version"):
        from_dict(TrainConfig, {"momentum": 0.9})
    with pytest.raises(UserError, match="DatasetSpec.*missing.*another version"):
        from_dict(DatasetSpec, {"name": "x"})


def test_with_base_takes_the_network_at_the_size_of_the_data() -> None:
    spec = RECIPES["BIWI"].dataset
    small = with_base(spec, RECIPES["synthetic"])
    check(small)
    assert (small.model.n_vertices, small.model.fps, small.model.d_model) == (23_370, 25, 192)
    assert small.model.fold == 2  # 50 Hz
    assert (small.train.takes, small.train.max_clip_s) == (0, 0)  # whole clips, cached
    assert small.wav2vec2 == "synthetic/encoder"
    assert small.train.closure_gain == 0  # BIWI has no inner_lips
    noisy = override(RECIPES["synthetic"], [("--set", "train.noisy_gain", "6")])
    own = dataclasses.replace(spec, inner_lips="lips.txt")
    check(with_base(own, noisy))  # without takes, whose noise alone is known
    paper = with_base(dataclasses.replace(spec, fps=60, source_fps=60), RECIPES["vocaset"])
    assert paper.model.fold == 1

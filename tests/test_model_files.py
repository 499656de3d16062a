"""Model files have the format of safetensors and are written whole."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from files.models import save_model_file


def test_a_model_file_is_what_safetensors_writes(tmp_path: Path) -> None:
    weights = {
        "z": torch.randn(2, 3), "a.ä": torch.randn(5, 7).T, "scalar": torch.tensor(0.5),
        "empty": torch.zeros(0, 3), "half": torch.randn(3).half(), "byte": torch.tensor([1, 255]),
        "flag": torch.tensor([True, False]), "brain": torch.randn(3).bfloat16(),
    }  # fmt: skip
    weights["byte"] = weights["byte"].to(torch.uint8)
    one, other = tmp_path / "one", tmp_path / "other"
    save_model_file(one, weights, "key", {"ä": 1})
    with safe_open(one, "pt") as file:
        assert file.metadata() == {"key": json.dumps({"ä": 1})}
        assert set(file.keys()) == weights.keys()
        assert all(torch.equal(file.get_tensor(name), weights[name]) for name in weights)
    floats = {name: weights[name].contiguous() for name in ("z", "a.ä", "scalar", "empty")}
    save_model_file(one, floats, "key", {"ä": 1})
    save_file(floats, other, {"key": json.dumps({"ä": 1})})
    assert one.read_bytes() == other.read_bytes()

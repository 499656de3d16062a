"""Model files from outside: numbers of a header get memory only where tensors of that size are."""

import copy
import dataclasses
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from common.errors import UserError
from config import SYNTHETIC, ModelConfig
from files import archives
from jambatalk import HEADER, JambaTalk, load_checkpoint
from lip_reader import LipReader, load_reader, save_reader
from released.weights import load_release
from tests.hostile import mutants
from tests.toy import DECODER, ENCODER
from training.state_file import load_state

V = 7


@pytest.fixture(scope="module")
def saved() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and header of a tiny model."""
    encoder = ENCODER | {"apply_spec_augment": False}
    config = ModelConfig(encoder=encoder, n_vertices=V, fps=30, fold=2, **DECODER)
    spec = dataclasses.replace(SYNTHETIC, n_vertices=V)
    header = {"model": dataclasses.asdict(config), "dataset": dataclasses.asdict(spec)}
    return JambaTalk(config).state_dict(), json.loads(json.dumps(header))


def model_file(path: Path, saved: tuple, **changes: object) -> Path:
    """The model with fields of its header changed: "model.d_ff" is written model__d_ff."""
    header = copy.deepcopy(saved[1])
    for name, value in changes.items():
        *parts, last = name.split("__")
        place = header
        for part in parts:
            place = place[part]
        place[last] = value
    weights = {name: value.contiguous() for name, value in saved[0].items()}
    save_file(weights, path / "m.safetensors", metadata={HEADER: json.dumps(header)})
    return path / "m.safetensors"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model__d_model", 2**20, "weights do not fit its config"),
        ("model__d_model", 2**40, "its numbers make no network"),
        ("model__d_ff", 2**40, "weights do not fit its config"),
        ("model__rope_rank", 2**32, "weights do not fit its config"),
        ("model__layout", "M" * 10**6, "at most 256 letters"),
        ("model__n_experts", 10**9, "at most 256"),
        ("model__fps", 10**9, "at most 240"),
        ("model__fold", 10**9, "weights do not fit its config"),
        ("model__n_vertices", 2**31, "expected dataset.n_vertices, 7"),
        ("model__d_model", "24", "d_model: expected an integer, got '24'"),
        ("dataset__metres_per_unit", 10**400, "metres_per_unit: expected a number"),
        ("model__d_model", 0, "model.d_model 0: expected 1 or more"),
        ("model__n_heads", 0, "model.n_heads 0: expected 1 or more"),
        ("model__dropout", True, "dropout: expected a number, got 'True'"),
        ("model", [], "ModelConfig: expected a JSON object"),
        ("dataset", 5, "DatasetSpec: expected a JSON object"),
        ("dataset__splits", {"train": 5}, "Split: expected a JSON object, got '5'"),
        ("dataset__metres_per_unit", -1.0, "dataset.metres_per_unit -1.0: expected more than 0"),
        ("model__encoder", {"model_type": ["wav2vec2"]}, "expected wav2vec2"),
        ("model__encoder__hidden_size", 2**31, "hidden_size is '2147483648', no value of"),
        ("model__encoder__hidden_size", 0, "hidden_size has 0, expected whole numbers above 0"),
        ("model__encoder__conv_dim", [16] * 10**5, "conv_dim is"),
        ("model__encoder__conv_dim", [16, 1, 16], "not a usable config"),
        ("model__encoder__conv_stride", [-5, -2, 2, 2, 2, 2, 2], "conv_stride is"),
        ("model__encoder__num_hidden_layers", 60_000, "expected at most 256"),
        ("model__encoder__layerdrop", "x", "layerdrop is 'x', no value of this field"),
        ("model__encoder__hidden_act", "evil", "hidden_act is 'evil', expected gelu"),
        ("model__encoder__max_source_positions", 10**9, "max_source_positions is"),
    ],
)
def test_a_header_that_its_tensors_do_not_bear_out_is_refused(
    field: str, value: object, message: str, saved: tuple, tmp_path: Path
) -> None:
    path = model_file(tmp_path, saved, **{field: value})
    with pytest.raises(UserError, match=f"checkpoint .*m.safetensors: .*{message}") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_fields_that_choose_code_are_not_passed_on(saved: tuple, tmp_path: Path) -> None:
    saved_fields = saved[1]["model"]["encoder"].keys() | {"model_type"}
    encoder = saved[1]["model"]["encoder"] | {
        "attn_implementation": "someone/kernel", "_attn_implementation": "someone/kernel",
        "num_labels": 10**9, "auto_map": {"AutoModel": "someone/code--x.Y"}, "dtype": "evil",
    }  # fmt: skip
    model = load_checkpoint(model_file(tmp_path, saved, model__encoder=encoder)).model
    assert vars(model.encoder.body.config).keys().isdisjoint(encoder.keys() - saved_fields)


def test_mutated_headers_are_read_or_refused_in_one_line(saved: tuple, tmp_path: Path) -> None:
    path = model_file(tmp_path, saved)
    content = path.read_bytes()
    length = 8 + struct.unpack("<Q", content[:8])[0]
    for mutant in mutants(content[:length], 60):
        path.write_bytes(mutant + content[length:])
        try:
            load_checkpoint(path)
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("header", [b'{"__metadata__":5}', b'{"__metadata__":[]}', b"{" * 999])
def test_metadata_of_another_kind_are_refused(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(UserError, match="m.safetensors: not a whole .safetensors file"):
        load_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("name", "value"), [("n_layers", 10**6), ("d_model", 2**40), ("n_heads", 0), ("fps", None)]
)
def test_a_lip_reader_of_impossible_size_is_refused(
    name: str, value: object, tmp_path: Path
) -> None:
    reader = LipReader(3, 8, 4, 30, d_model=8)
    reader.dims = reader.dims | {name: value}
    save_reader(tmp_path / "r.safetensors", reader, [1, 2, 3], "lips", "teacher")
    with pytest.raises(UserError, match=f"its header does not fit its weights .{name} is"):
        load_reader(tmp_path / "r.safetensors")


@pytest.mark.parametrize("dims", [[], "x", None, {"unknown": 1}])
def test_a_lip_reader_without_its_sizes_is_refused(dims: object, tmp_path: Path) -> None:
    header = {"dims": dims, "lips": [], "region": "", "teacher": "", "characters": []}
    path = tmp_path / "r.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"lip_reader": json.dumps(header)})
    with pytest.raises(UserError, match="its header does not fit its weights"):
        load_reader(path)


def torch_file(path: Path, pickled: bytes, compressed: bool = False, storage: int = 64) -> Path:
    """A file as of torch.save with this pickle."""
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", bytes(storage))
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize(
    "pickled",
    [b".", b"0.", b"R.", b"h\x05.", b"(K\x01tQ.", b"b.", b"\x80\x02ctorch._utils\n"],
)
def test_a_broken_pickle_of_torch_is_one_line(pickled: bytes, tmp_path: Path) -> None:
    path = torch_file(tmp_path / "x.pth", pickled)
    with pytest.raises(UserError, match="damaged or truncated|other than weights"):
        load_release(path)
    with pytest.raises(UserError, match="not a training state"):
        load_state(path)


def test_a_torch_file_that_expands_too_much_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 10**4)  # 64 MiB take long to write
    path = torch_file(tmp_path / "x.pth", pickle.dumps({}), True, 2**20)
    with pytest.raises(UserError, match=r"x.pth: damaged or truncated"):
        load_release(path)
    with pytest.raises(UserError, match=r"its members claim \d+ bytes, the file has \d+"):
        load_state(path)


def test_weights_that_share_their_memory_may_not_claim_more_than_the_file(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).half().expand(2**40)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="x.pth: damaged or truncated"):
        load_release(tmp_path / "x.pth")
    with pytest.raises(UserError, match=rf"a tensor of {2**40} values, its storage has 1"):
        load_state(tmp_path / "x.pth")


def test_an_empty_weight_is_one_line(tmp_path: Path) -> None:
    content = io.BytesIO()
    torch.save({"audio_feature_map.weight": torch.zeros(2, 0),
                "audio_encoder.encoder.layer_norm.weight": torch.zeros(0)}, content)  # fmt: skip
    (tmp_path / "x.pth").write_bytes(content.getvalue())
    with pytest.raises(UserError, match="x.pth: "):
        load_release(tmp_path / "x.pth")


@pytest.mark.parametrize("state", [{"generators": {}, "recipe": []}, [1]])
def test_a_state_with_other_parts_is_refused(state: object, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(UserError, match="last.pt: not a training state"):
        load_state(tmp_path / "last.pt")

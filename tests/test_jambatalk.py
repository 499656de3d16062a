"""The whole network: shapes, padding, long audio, checkpoints, and fitting one clip."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.errors import UserError
from config import SYNTHETIC, ModelConfig
from jambatalk import JambaTalk, load_checkpoint, save_checkpoint
from speech.timing import mesh_frames
from speech.windows import Windows
from tests.toy import DECODER, ENCODER

V = 7
SPEC = dataclasses.replace(SYNTHETIC, n_vertices=V)


def config(**changes: object) -> ModelConfig:
    encoder = ENCODER | {"apply_spec_augment": False}
    values = DECODER | dict(encoder=encoder, n_vertices=V, fps=30, fold=2, layout="MEAEME")
    return ModelConfig(**(values | changes))


def moving(model: JambaTalk) -> JambaTalk:
    torch.nn.init.normal_(model.head.offsets.weight, std=0.1)
    return model.eval()


@pytest.mark.parametrize("rank", [0, 5])
def test_an_untrained_face_stays_the_template(rank: int) -> None:
    model = JambaTalk(config(vertex_rank=rank)).eval()
    template = torch.randn(2, V, 3)
    vertices, balance = model(torch.randn(2, 8_000), template)
    assert vertices.shape == (2, mesh_frames(8_000, 30), V, 3)
    torch.testing.assert_close(vertices, template[:, None].expand_as(vertices))
    assert balance.shape == (2,) and (balance > 0).all()


def test_a_padded_clip_gives_the_same_frames_as_alone() -> None:
    torch.manual_seed(0)
    model = moving(JambaTalk(config()))
    audio, lengths = torch.randn(2, 16_000), torch.tensor([16_000, 9_000])
    audio[1, 9_000:] = 0
    template = torch.zeros(2, V, 3)
    with torch.no_grad():
        together = model(audio, template, lengths)[0][1]
        alone = model(audio[1:, :9_000], template[1:])[0][0]
    torch.testing.assert_close(together[: len(alone)], alone, atol=1e-5, rtol=1e-4)


def test_prediction_of_a_short_clip_is_one_forward_pass() -> None:
    torch.manual_seed(0)
    model = moving(JambaTalk(config()))
    audio, template = torch.randn(16_000), torch.randn(V, 3)
    with torch.no_grad():
        expected = model(audio[None], template[None])[0][0]
    torch.testing.assert_close(model.predict(audio, template), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("seconds", [2.99, 3.0, 3.5, 4.1, 7.77])
def test_windows_of_long_audio_give_every_frame_once(seconds: float) -> None:
    torch.manual_seed(0)
    model = moving(JambaTalk(config()))
    model.encoder.kind.windows = Windows(hop=1, before=0, after=1, fade=(0, 1), joined=2)
    n_samples = int(seconds * 16_000)
    vertices = model.predict(torch.randn(n_samples), torch.zeros(V, 3))
    assert vertices.shape == (mesh_frames(n_samples, 30), V, 3)
    steps = (vertices[1:] - vertices[:-1]).abs().amax((1, 2))
    assert steps.max() < 6 * steps.median()  # no jump where windows meet


def test_digital_silence_gives_the_template() -> None:
    model = moving(JambaTalk(config()))
    template = torch.randn(V, 3)
    vertices = model.predict(torch.zeros(16_000 * 13), template)
    assert vertices.shape == (mesh_frames(16_000 * 13, 30), V, 3)
    assert (vertices == template).all()


def test_components_start_the_head_at_the_mean() -> None:
    model = JambaTalk(config(vertex_rank=2)).eval()
    mean, components = torch.randn(V, 3), torch.randn(2, V, 3)
    model.head.set_components(mean, components)
    torch.nn.init.zeros_(model.head.coefficients.weight)
    model.head.coefficients.bias.data = torch.tensor([1.0, -2.0])
    expected = mean + components[0] - 2 * components[1]
    torch.testing.assert_close(model.head(torch.randn(1, 1, 24))[0, 0], expected)


@pytest.mark.parametrize("rank", [0, 5])
def test_the_vertex_head_under_bfloat16_gives_equal_offsets_and_close_gradients(rank: int) -> None:
    torch.manual_seed(0)
    model = moving(JambaTalk(config(vertex_rank=rank)))
    head, x = model.head, torch.randn(2, 11, 24, requires_grad=True)
    results = []
    for coarse in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=coarse):
            offsets = head(x)
        gradients = torch.autograd.grad(offsets.sin().sum(), [x, *head.parameters()])
        results.append((offsets, gradients))
    (expected, exact), (offsets, rounded) = results
    assert torch.equal(offsets, expected)
    for ours, theirs in zip(rounded, exact, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_a_loaded_checkpoint_predicts_as_the_saved_model(tmp_path: Path) -> None:
    model = moving(JambaTalk(config(vertex_rank=3)))
    save_checkpoint(tmp_path / "m.safetensors", model, SPEC)
    loaded, spec = load_checkpoint(tmp_path / "m.safetensors")
    assert spec == SPEC and loaded.config == model.config
    audio, template = torch.randn(4_000), torch.zeros(V, 3)
    torch.testing.assert_close(loaded.predict(audio, template), model.predict(audio, template))
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_half_precision_file_is_half_the_size(tmp_path: Path) -> None:
    model = JambaTalk(config())
    save_checkpoint(tmp_path / "full", model, SPEC)
    save_checkpoint(tmp_path / "half", model, SPEC, half=True)
    sizes = [(tmp_path / name).stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.62 * sizes[0]
    assert next(load_checkpoint(tmp_path / "half")[0].parameters()).dtype == torch.float32


def test_a_model_with_the_removed_small_encoder_is_reported_in_one_line(tmp_path: Path) -> None:
    old = {"model_type": "wav2vec2", "context_layers": 5, "hand_set_layers": 3}
    model = dataclasses.asdict(dataclasses.replace(config(), encoder=old))
    header = json.dumps({"model": model, "dataset": dataclasses.asdict(SPEC)})
    save_file({"x": torch.zeros(1)}, tmp_path / "old", metadata={"jambatalk": header})
    with pytest.raises(UserError, match="old: .*small encoder of an earlier version.*commit") as e:
        load_checkpoint(tmp_path / "old")
    assert "\n" not in str(e.value)


def test_foreign_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_checkpoint(tmp_path / "none")
    (tmp_path / "junk").write_bytes(b"not a model")
    with pytest.raises(UserError, match="junk: not a model file"):
        load_checkpoint(tmp_path / "junk")
    with pytest.raises(UserError, match="is a folder"):
        load_checkpoint(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(UserError, match="no jambatalk header"):
        load_checkpoint(tmp_path / "foreign")
    content = (tmp_path / "foreign").read_bytes()
    for name, length in (("body", len(content) - 1), ("header", 20)):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(UserError, match="not a whole"):
            load_checkpoint(tmp_path / name)
    save_file({"x": torch.zeros(1)}, tmp_path / "own", metadata={"jambatalk": "{}"})
    (tmp_path / "own").write_bytes((tmp_path / "own").read_bytes()[:-1])
    with pytest.raises(UserError, match="own: not a whole .*give best.safetensors"):
        load_checkpoint(tmp_path / "own")
    save_file({"x": torch.zeros(1)}, tmp_path / "reader", metadata={"lip_reader": "{}"})
    with pytest.raises(UserError, match="a lip reader; give best.safetensors"):
        load_checkpoint(tmp_path / "reader")
    torch.save({"generators": {}, "model": {"x": torch.zeros(1)}}, tmp_path / "last.pt")
    with pytest.raises(
        UserError, match="a training state; give best.safetensors from the same folder"
    ):
        load_checkpoint(tmp_path / "last.pt")
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="of the JambaTalk release"):
        load_checkpoint(tmp_path / "x.pth")
    header = json.dumps({"model": {"surprise": 1}, "dataset": {}})
    save_file({"x": torch.zeros(1)}, tmp_path / "newer", metadata={"jambatalk": header})
    with pytest.raises(UserError, match="surprise"):
        load_checkpoint(tmp_path / "newer")


def test_unknown_layout_letter_is_named() -> None:
    with pytest.raises(ValueError, match="'X'"):
        JambaTalk(config(layout="MX"))


def test_tied_layers_are_one_module_for_each_letter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tied, free = JambaTalk(config(tie_layers=True)), JambaTalk(config())
    m1, e1, a, e2, m2, e3 = tied.layers
    assert m1 is m2 and e1 is e2 is e3
    parameters = {kind: sum(p.numel() for p in layer.parameters())
                  for kind, layer in zip("MEA", (m1, e1, a), strict=True)}  # fmt: skip
    count = sum(p.numel() for p in tied.parameters())
    whole = sum(p.numel() for p in free.parameters())
    assert whole - count == parameters["M"] + 2 * parameters["E"]
    save_checkpoint(tmp_path / "tied.safetensors", moving(tied), SPEC)
    again = load_checkpoint(tmp_path / "tied.safetensors").model
    assert again.layers[0] is again.layers[4]
    audio, template = torch.randn(8_000), torch.randn(V, 3)
    torch.testing.assert_close(again.predict(audio, template), tied.predict(audio, template))


def test_the_network_can_overfit_one_clip() -> None:
    torch.manual_seed(0)
    model = JambaTalk(config(vertex_rank=4))
    audio, template = torch.randn(1, 16_000), torch.randn(1, V, 3)
    with torch.no_grad():
        frames = model(audio, template)[0].shape[1]
    motion = torch.sin(torch.arange(frames) * 0.7)[None, :, None, None] * torch.randn(1, 1, V, 3)
    truth = template[:, None] + motion
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    torch.nn.init.normal_(model.head.offsets.weight, std=0.1)
    still = (truth - template[:, None]).square().mean().item()
    for _ in range(120):
        loss = (model(audio, template)[0] - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * still

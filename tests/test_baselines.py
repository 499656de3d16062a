"""Decoders of other systems under JambaTalk's interface: padding, stream, gradients, training."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

import main
from common.errors import UserError, run_cli
from config import MODELS, SYNTHETIC, ModelConfig, Recipe
from files.models import load_model_file, save_model_file
from jambatalk import HEADER, Checkpoint, JambaTalk, load_checkpoint, save_checkpoint
from speech.timing import mesh_frames
from streaming.engine import Stream
from tests.toy import DECODER, ENCODER, V, outcome, run_toy, run_until_killed, same
from training.given import set_progress
from training.start import load_start

BASELINES = [name for name in MODELS if name != "jambatalk"]
STEPS = 60  # of `test_a_tiny_clip_is_learnt_in_a_few_steps`
SPEC = dataclasses.replace(SYNTHETIC, n_vertices=V)


def moving(name: str, vertex_rank: int = 2) -> JambaTalk:
    """An untrained network whose head moves the face, in evaluation mode."""
    torch.manual_seed(0)
    encoder = ENCODER | {"apply_spec_augment": False}
    model = JambaTalk(
        ModelConfig(
            encoder=encoder,
            n_vertices=V,
            fps=30,
            fold=2,
            model=name,
            subjects=("a", "b"),
            vertex_rank=vertex_rank,
            **DECODER,
        )  # fmt: skip
    )
    torch.nn.init.normal_(model.head.offsets.weight, std=0.1)
    return model.eval()


@pytest.mark.parametrize("name", BASELINES)
def test_a_padded_batch_gives_what_each_clip_gives_alone(name: str) -> None:
    model = moving(name)
    audio, template = torch.randn(2, 16_000), torch.randn(2, V, 3)
    audio[1, 9_600:] = 0
    both, balance = model(audio, template, torch.tensor([16_000, 9_600]))
    assert both.shape == (2, mesh_frames(16_000, 30), V, 3) and not balance.any()
    alone, _ = model(audio[1:, :9_600], template[1:])
    torch.testing.assert_close(both[1:, : alone.shape[1]], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_the_stream_of_a_short_clip_is_its_forward_pass(name: str) -> None:
    model, audio, template = moving(name), torch.randn(16_000), torch.randn(V, 3)
    audio = (audio - audio.mean()) / audio.std(correction=0)
    with torch.no_grad():
        whole = model(audio[None], template[None])[0][0]
    torch.testing.assert_close(model.predict(audio, template), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_the_gradient_reaches_every_parameter_of_the_decoder(name: str) -> None:
    model = moving(name, vertex_rank=0)
    features, motion = torch.randn(1, 7, model.encoder.width), torch.randn(1, 7, 3 * V)
    for share in (0.0, 1.0):  # CodeTalker's stages
        set_progress(model, share)
        x, own_loss = model.hidden(features, motion=motion)
        (model.offsets(x).square().sum() + own_loss.sum()).backward()
    for part in (model.project, model.layers, model.norm, model.head):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters())


@pytest.mark.parametrize("name", BASELINES)
def test_a_checkpoint_rebuilds_the_model_that_it_names(name: str, tmp_path: Path) -> None:
    model, path = moving(name), tmp_path / "model.safetensors"
    save_checkpoint(path, model, SPEC)
    again = load_checkpoint(path).model
    assert again.config.model == name
    audio, template = torch.randn(1, 8_000), torch.randn(1, V, 3)
    torch.testing.assert_close(again(audio, template)[0], model(audio, template)[0])


@pytest.mark.parametrize("name", BASELINES)
def test_a_tiny_clip_is_learnt_in_a_few_steps(name: str) -> None:
    model = moving(name)
    basis, frame = torch.randn(2, V, 3), torch.arange(7)[:, None]
    truth = (torch.sin(frame * torch.tensor([0.5, 1.1])) @ basis.flatten(1))[None]
    model.head.set_components(torch.zeros(V, 3), basis)
    features, motion = torch.randn(1, 7, model.encoder.width), None
    parts = (model.project, model.layers, model.norm, model.head)
    optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()], 1e-2)

    def error(motion: Tensor | None) -> tuple[Tensor, Tensor]:
        x, own_loss = model.hidden(features, motion=motion)
        wrong = (model.offsets(x).flatten(2) - truth).square().mean()
        return wrong / truth.square().mean(), own_loss.mean()

    for step in range(STEPS):
        set_progress(model, step / STEPS)
        motion = model.head.motion_of_offsets(truth.unflatten(2, (V, 3)))
        optimizer.zero_grad()
        sum(error(motion)).backward()
        optimizer.step()
    assert error(None)[0] < 0.3  # as it is predicted, without the truth; a still face: 1


def test_a_run_keeps_the_training_subjects_and_goes_on(recipe: Recipe) -> None:
    flags = ("--model", "facexhubert", "--epochs", "2", "--out")
    with pytest.MonkeyPatch.context() as patch:
        run_until_killed(patch, 3, *flags, "stopped", "--save_every", "1e-9")
    assert run_toy(*flags, "stopped", "--resume") == run_toy(*flags, "whole") == 0
    same("stopped", "whole")
    losses = [float(row["vertex"]) for row in outcome("whole")[1]]
    assert losses[-1] < losses[0]
    assert load_checkpoint("whole/best.safetensors").model.config.subjects == ("a",)


def test_a_start_with_other_subjects_names_the_setting(recipe: Recipe) -> None:
    model = dataclasses.replace(recipe.model, model="voca", subjects=("a", "b"))
    save_checkpoint("x.safetensors", JambaTalk(model), recipe.dataset)
    other = dataclasses.replace(recipe, model=dataclasses.replace(model, subjects=("c",)))
    with pytest.raises(UserError, match="give the file's values: --set model.subjects=a,b$"):
        load_start("x.safetensors", other)


def test_a_style_of_its_own_moves_the_face_of_a_training_subject(tmp_path: Path) -> None:
    model, audio, template = moving("voca"), torch.randn(8_000), torch.randn(V, 3)
    audio = (audio - audio.mean()) / audio.std(correction=0)
    a, b, other = (model.predict(audio, template, name) for name in ("a", "b", "other"))
    assert not torch.allclose(a, b) and not torch.allclose(a, other)
    assert torch.equal(other, model.predict(audio, template))


def test_an_unknown_model_is_one_line(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_toy("--model", "selftalkk") == 2
    assert f"--model selftalkk: expected one of {', '.join(MODELS)}" in capsys.readouterr().err


def test_a_test_refuses_a_checkpoint_of_another_model(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint("x.safetensors", moving("jambatalk"), SPEC)
    test = ["--mode", "test", "--dataset", "toy"]
    assert run_cli(main.main, [*test, "--model", "selftalk", "--checkpoint", "x.safetensors"]) == 2
    expected = "--model selftalk: x.safetensors is a model of jambatalk"
    assert expected in capsys.readouterr().err


def test_a_checkpoint_without_a_model_name_is_of_jambatalk(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, moving("jambatalk"), SPEC)
    weights, header = load_model_file(path, HEADER)
    del header["model"]["model"]
    save_model_file(path, weights, HEADER, header)
    assert load_checkpoint(path).model.config.model == "jambatalk"


@pytest.mark.parametrize("name", BASELINES)
def test_the_live_engine_refuses_a_decoder_without_steps(name: str) -> None:
    with pytest.raises(UserError, match=f"live: {name} has no steps of a few frames"):
        Stream(Checkpoint(moving(name), SPEC))

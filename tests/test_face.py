"""Faces of the demo: published weights, own templates, and data sets whose files are missing."""

import dataclasses

import imageio_ffmpeg
import numpy as np
import pytest
import torch

import demo
import main
from common.errors import EXIT_BAD_INPUT, UserError, run_cli
from config import RECIPES, XLSR_LARGE, ModelConfig
from data_loader import load_wav
from dataset.faces import check_own_face
from files.meshes import load_mesh
from jambatalk import load_checkpoint
from production import flags
from released import topology
from released.network import ReleasedJambaTalk
from released.weights import convert, load_release

ENCODER = dict(
    conv_dim=[8] * 7, hidden_size=64, num_hidden_layers=1, num_attention_heads=1,
    intermediate_size=16, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
)  # fmt: skip
FACES = [(0, 1, 2), (0, 2, 3)]
SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)


def write_release(path, n_vertices, fps=30):
    """A small file in the published format whose vertices move a millimetre."""
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=XLSR_LARGE | ENCODER, n_vertices=n_vertices, fps=fps, fold=1 if fps == 30 else 2,
        layout="MEAEME" if fps == 30 else "MEMEAEMEME", d_model=16, n_heads=8 if fps == 30 else 4,
        d_ff=16,
    )  # fmt: skip
    state = ReleasedJambaTalk(config).state_dict()
    for name in ("vertice_map_r.weight", "vertice_map_r.bias"):
        state[name] *= 1e-3
    torch.save(state | {"text_encoder.lm_head.bias": torch.zeros(33)}, path)
    return path


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """Recipes square, BIG and BIG_6, whose data lie in the test's folder."""

    def spec(name, n_vertices, fps):
        return dataclasses.replace(
            RECIPES["vocaset"].dataset, name=name, root=str(tmp_path / "data"), fps=fps,
            n_vertices=n_vertices, templates=str(tmp_path / f"{name}.npz"),
            topology=str(tmp_path / f"{name}_faces.npz"),
        )  # fmt: skip

    specs = [spec("square", 4, 30), spec("BIG", 9, 25), spec("BIG_6", 5, 25)]
    known = {s.name: dataclasses.replace(RECIPES["vocaset"], dataset=s) for s in specs}
    monkeypatch.setattr(topology, "RECIPES", known)
    monkeypatch.setattr(flags, "RECIPES", known)
    np.savez(tmp_path / "square.npz", ann=SQUARE, bob=2 * SQUARE)
    np.savez(tmp_path / "square_faces.npz", faces=np.array(FACES))
    return {name: recipe.dataset for name, recipe in known.items()}


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the demo on half a second of noise; returns (exit code, last line, stderr)."""
    import soundfile

    wav = tmp_path / "a.wav"
    soundfile.write(wav, 0.1 * np.random.default_rng(1).normal(size=8_000), 16_000)

    def call(*arguments):
        given = ["--wav_path", wav, "--out", tmp_path / "out", "--size", 64, *arguments]
        code = run_cli(demo.main, [str(a) for a in given])
        printed = capsys.readouterr()
        return code, (printed.out.splitlines() or [""])[-1], printed.err

    return call


def refusal(result):
    """The one line of a refused run."""
    code, _, error = result
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert code == EXIT_BAD_INPUT and len(lines) == 1, error
    return lines[0]


def test_published_weights_animate_a_subject_of_the_data_set(recipes, run, tmp_path):
    path = write_release(tmp_path / "square.pth", 4)
    code, last, error = run("--checkpoint", path, "--dataset", "square", "--subject", "bob")
    assert code == 0, error
    vertices = np.load(tmp_path / "out/a.npy")
    audio = torch.from_numpy(load_wav(tmp_path / "a.wav"))[None]  # zero mean, unit variance
    expected = load_release(path).predict(audio, torch.from_numpy(2 * SQUARE)).numpy()
    assert vertices.shape == (15, 4, 3) and len(expected) == 14
    np.testing.assert_array_equal(vertices, expected[[*range(14), 13]])  # the last frame is held
    reader = imageio_ffmpeg.read_frames(last)
    assert next(reader)["fps"] == 30 and len(list(reader)) == 15


def test_a_converted_file_needs_no_dataset(recipes, run, tmp_path):
    convert(write_release(tmp_path / "square.pth", 4), tmp_path / "x.safetensors", half=True)
    code, last, error = run("--checkpoint", tmp_path / "x.safetensors", "--no_video")
    assert code == 0, error
    assert np.load(last).shape == (15, 4, 3)


def test_biwi_of_the_release_is_found_by_its_vertices(recipes, tmp_path):
    path = write_release(tmp_path / "big.pth", 5, fps=25)
    model, spec = load_checkpoint(path, "BIG")
    assert spec == recipes["BIG_6"] and model.config.fps == 25
    assert load_checkpoint(path, "BIG_6")[1] == load_checkpoint(path, None)[1] == spec


def test_published_weights_are_scored_but_not_trained(recipe, tmp_path, capsys):
    path = write_release(tmp_path / "x.pth", recipe.dataset.n_vertices)
    flags = ["--dataset", "toy", "--out", "out", "--workers", "0"]
    assert run_cli(main.main, [*flags, "--mode", "test", "--checkpoint", str(path)]) == 0
    assert (tmp_path / "out/results.json").is_file()
    assert run_cli(main.main, [*flags, "--mode", "train", "--init", str(path)]) == EXIT_BAD_INPUT
    assert "published weights cannot be trained further" in capsys.readouterr().err


def test_weights_of_another_topology_are_refused(recipes, run, tmp_path):
    path = write_release(tmp_path / "square.pth", 4)
    line = refusal(run("--checkpoint", path, "--dataset", "BIG"))
    assert "dataset BIG" in line and "4 vertices" in line and "BIG_6 has 5" in line
    path = write_release(tmp_path / "odd.pth", 6)
    line = refusal(run("--checkpoint", path))
    assert "no known data set fits" in line and "6 vertices" in line


def test_a_dataset_other_than_the_models_own_is_refused(recipes, run):
    line = refusal(run("--dataset", "BIG"))
    assert "dataset BIG" in line and "is a model for synthetic" in line


def test_missing_templates_are_reported_with_both_remedies(recipes, run, tmp_path):
    path = write_release(tmp_path / "big.pth", 5, fps=25)
    line = refusal(run("--checkpoint", path, "--dataset", "BIG_6"))
    assert "BIG_6.npz: no such file" in line and "5 vertices with --template" in line
    (tmp_path / "README.md").write_text("how to get the data")
    assert f"see {tmp_path}/README.md" in refusal(run("--checkpoint", path))


def test_templates_of_another_data_set_are_refused(recipes, run, tmp_path):
    path = write_release(tmp_path / "big.pth", 5, fps=25)
    np.savez(tmp_path / "BIG_6.npz", ann=SQUARE)
    assert "4 vertices, expected 5" in refusal(run("--checkpoint", path))


def test_a_template_with_faces_is_enough(recipes, run, tmp_path):
    (tmp_path / "square_faces.npz").unlink()
    path = write_release(tmp_path / "square.pth", 4)
    lines = ["v {} {} {}".format(*v) for v in SQUARE]
    (tmp_path / "points.obj").write_text("\n".join(lines))
    lines += ["f {} {} {}".format(*(i + 1 for i in f)) for f in FACES]
    (tmp_path / "face.obj").write_text("\n".join(lines))
    code, last, error = run("--checkpoint", path, "--template", tmp_path / "face.obj")
    assert code == 0 and last.endswith("a.mp4"), error
    line = refusal(run("--checkpoint", path, "--template", tmp_path / "points.obj"))
    assert "topology" in line and "--template with faces" in line
    code, last, _ = run("--checkpoint", path, "--template", tmp_path / "points.obj", "--no_video")
    assert code == 0 and last.endswith("a.npy")


def test_without_the_models_templates_the_unit_is_checked_by_size_in_metres(recipes, tmp_path):
    spec = recipes["BIG_6"]  # units of a metre, no templates on disk
    pyramid = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1]], np.float32)
    for scale in (0.2, 1.0):
        check_own_face(spec, "template x.ply", scale * pyramid)
    with pytest.raises(UserError, match=r"200 across.*about 0.25: .* by 0.001"):
        check_own_face(spec, "template x.ply", 200 * pyramid)


@pytest.mark.parametrize(
    ("template", "dataset", "fps"),
    [("vocaset/FLAME_sample.ply", "vocaset", 30), ("biwi6/templates/M3.obj", "BIWI", 25)],
)
def test_the_real_topologies(shared_data, run, tmp_path, template, dataset, fps):
    vertices, _ = load_mesh(shared_data / template)
    path = write_release(tmp_path / "x.pth", len(vertices), fps)
    code, last, error = run(
        "--checkpoint", path, "--dataset", dataset, "--template", shared_data / template
    )
    assert code == 0, error
    moved = np.load(tmp_path / "out/a.npy")
    assert moved.shape == (-(-fps // 2), *vertices.shape)
    assert np.abs(moved - vertices).max() < 0.01
    pictures = list(imageio_ffmpeg.read_frames(last))
    middle = np.frombuffer(pictures[1], np.uint8).reshape(64, 64, 3)[24:40, 24:40]
    assert len(pictures) == 1 + len(moved) and (middle < 250).all()  # a face, not the background


def test_a_file_that_is_not_a_model_is_refused(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"<html>")
    with pytest.raises(UserError, match="web page"):
        load_checkpoint(tmp_path / "x.pth", "vocaset")

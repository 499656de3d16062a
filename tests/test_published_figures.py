"""The network of the published weights against recorded figures of the release.

tests/data/release.npz holds figures of the public release (1550de8), run unchanged on a CPU in
float32 (transformers 4.56, torch 2.13, attention "eager"): two decoder modules at width 64 with
weights, outputs and gradients; predictions of the two whole networks with weights filled by a rule,
so that no weight need be stored; names and shapes of the published files.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from config import RECIPES, XLSR_LARGE
from released import network
from released.network import AttentionLayer, MoEMamba, ReleasedJambaTalk, scaled_norm
from released.weights import load_release
from tests.published import filled, uniform

Figures = dict[str, NDArray]

FIGURES = Path(__file__).parent / "data/release.npz"
TOLERANCE = 2e-4  # times the standard deviation of a frame's coordinates
SECONDS = 2
TINY_ENCODER = dict(  # of the recorded whole networks
    conv_dim=[32] * 7, conv_kernel=[10, 3, 3, 3, 3, 2, 2], hidden_size=1024, num_hidden_layers=2,
    num_attention_heads=16, intermediate_size=256, num_conv_pos_embeddings=128,
    num_conv_pos_embedding_groups=16,
)  # fmt: skip


def shapes(figures: Figures, kind: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the weights of a published file that prediction needs."""
    lines = bytes(figures[f"{kind}/published"]).decode().splitlines()
    pairs = (line.split(" ") for line in lines)
    return {name: tuple(map(int, shape.split("x"))) for name, shape in pairs}


def worst(ours: ArrayLike, theirs: ArrayLike, scale: ArrayLike | None = None) -> float:
    """The largest difference, relative to `scale` or, if None, to the deviation of `theirs`."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float((np.abs(ours - theirs) / (theirs.std() if scale is None else scale)).max())


@pytest.fixture(scope="module")
def figures() -> Figures:
    """The recorded figures by name."""
    with np.load(FIGURES) as archive:
        return dict(archive)


def reference_network(figures: Figures, kind: str) -> ReleasedJambaTalk:
    """The network of `kind` with the weights of the reference."""
    published = load_shapes_only(shapes(figures, kind)).config
    config = dataclasses.replace(published, encoder=XLSR_LARGE | TINY_ENCODER)
    with torch.device("meta"):
        names = ReleasedJambaTalk(config).state_dict()
    return load_release({name: filled(name, value.shape) for name, value in names.items()})


def load_shapes_only(named_shapes: dict[str, tuple[int, ...]]) -> ReleasedJambaTalk:
    """The network for weights of these shapes, without memory."""
    return load_release({k: torch.empty(v, device="meta") for k, v in named_shapes.items()})


@pytest.mark.filterwarnings("ignore:audio. expected 16 kHz")  # the figures' audio is softer
@pytest.mark.parametrize("kind", ["vocaset", "BIWI"])
def test_the_whole_network_predicts_what_the_release_predicts(figures: Figures, kind: str) -> None:
    model = reference_network(figures, kind)
    time = np.arange(16_000 * SECONDS) / 16_000
    tremolo = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * time)
    audio = (0.8 * uniform("audio", len(time), 1.0) * tremolo).astype(np.float32)[None]
    template = uniform("template", 3 * model.config.n_vertices, 0.1).reshape(-1, 3)
    steps = record_steps(model)
    vertices = model.predict(torch.from_numpy(audio), torch.from_numpy(template)).numpy()

    expected = {name[len(kind) + 1 :]: v for name, v in figures.items() if name.startswith(kind)}
    spread = expected["frame_std"]
    flat = vertices.reshape(len(vertices), -1)
    errors = {
        "vertices": worst(
            flat[:, expected["coordinate_index"]], expected["vertices"], spread[:, None]
        ),
        "mean": worst(flat.mean(1, dtype=np.float64), expected["frame_mean"], spread),
        "std": worst(flat.std(1, dtype=np.float64), spread, spread),
    }
    for name in (n[5:] for n in expected if n.startswith("step/")):
        errors[name] = worst(steps[name][::9, ::37], expected[f"step/{name}"])
    print(f"{kind}: worst relative differences", errors)
    assert len(vertices) == len(expected["vertices"]) == {"vocaset": 59, "BIWI": 49}[kind]
    assert max(errors.values()) < TOLERANCE


def record_steps(model: ReleasedJambaTalk) -> Figures:
    """{"mamba_0": (T, D), ...}: outputs of the decoder's modules in order of call."""
    outputs = {}
    for name in ("audio_feature_map", "mamba", "mamba_moe", "transformer_decoder"):

        def keep(_module, _inputs, output, name=name):
            call = sum(key.rpartition("_")[0] == name for key in outputs)
            outputs[f"{name}_{call}"] = output[0].numpy().copy()

        getattr(model, name).register_forward_hook(keep)
    return outputs


def module_errors(module: nn.Module, x: NDArray, expected: Figures) -> dict[str, float]:
    """Errors of output and gradients of a module for the loss Σ output · grad_out."""
    x = torch.from_numpy(x)[None].requires_grad_()
    output = module(x)
    (output * torch.from_numpy(expected["grad_out"])).sum().backward()
    errors = {"out": worst(output[0].detach(), expected["out"])}
    errors["x"] = worst(x.grad[0], expected["grad_x"])
    for name, weight in module.named_parameters():
        errors[name] = worst(weight.grad.flatten()[::17], expected[f"grad/{name}"])
    return errors


def test_mamba_has_the_output_and_gradients_of_the_release(figures: Figures) -> None:
    expected = {k[6:]: v for k, v in figures.items() if k.startswith("mamba/")}
    module = network.Mamba(64, d_state=16, d_conv=4)
    module.load_state_dict(weights_of(expected))
    errors = module_errors(module, figures["x"], expected)
    print("mamba: worst relative differences", errors)
    assert max(errors.values()) < TOLERANCE


def test_the_mixture_has_the_output_and_gradients_of_the_release(figures: Figures) -> None:
    """The second experts that the release dropped in the recorded call are dropped here, too."""
    expected = {k[10:]: v for k, v in figures.items() if k.startswith("mamba_moe/")}
    module = MoEMamba(64, d_state=8, d_conv=8, expand=2, n_experts=2)
    module.load_state_dict(weights_of(expected))
    x = torch.from_numpy(figures["x"])[None]
    assert worst(scaled_norm(x)[0, ::6], expected["norm_x"]) < 1e-6
    with torch.no_grad():
        assert worst(module(x)[0], expected["out_all"]) < TOLERANCE
    kept = torch.from_numpy(expected["kept"])
    module.moe.gate.register_forward_hook(lambda _module, _inputs, gates: gates * kept)
    errors = module_errors(module, figures["x"], expected)
    print("mamba_moe: worst relative differences", errors)
    assert max(errors.values()) < TOLERANCE


def weights_of(expected: Figures) -> dict[str, Tensor]:
    """The state dict of a recorded module."""
    return {k[7:]: torch.from_numpy(v) for k, v in expected.items() if k.startswith("weight/")}


@pytest.mark.parametrize("heads", [8, 4])
def test_attention_has_the_output_and_gradients_of_the_release(
    shared_reference: Path, heads: int
) -> None:
    content = torch.load(shared_reference / "decoder_only_64.pt", weights_only=True)
    figures = content["modules"][f"transformer_decoder_h{heads}"]
    module = AttentionLayer(64, heads, d_ff=2048, rank=16)
    module.load_state_dict(figures["state_dict"])
    expected = {f"grad/{k}": v.flatten()[::17] for k, v in figures["grads"].items()}
    expected |= {"out": figures["out"][0], "grad_x": figures["grad_x"][0]}
    expected["grad_out"] = figures["grad_weight"].numpy()
    errors = module_errors(module, content["x"][0].numpy(), expected)
    print(f"attention, {heads} heads: worst relative differences", errors)
    assert max(errors.values()) < TOLERANCE


@pytest.fixture
def shared_reference(shared_data: Path) -> Path:
    """The folder of all reference figures; those of attention are too large for the project."""
    folder = shared_data.parent / "reference"
    if not folder.is_dir():
        pytest.skip("the reference figures (../shared/reference) are not here")
    return folder


@pytest.mark.parametrize(("kind", "recipe"), [("vocaset", "vocaset"), ("BIWI", "BIWI_6")])
def test_names_and_shapes_are_those_of_the_published_files(
    figures: Figures, kind: str, recipe: str
) -> None:
    published = shapes(figures, kind)
    model = load_shapes_only(published)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == published
    named = {key: model.config.encoder[key] for key in XLSR_LARGE}
    assert named == XLSR_LARGE
    expected, config = RECIPES[recipe].model, model.config
    for field in ("n_vertices", "fps", "fold", "layout", "d_model", "n_heads", "rope_rank", "d_ff"):
        assert getattr(config, field) == getattr(expected, field), field


@pytest.mark.parametrize(("audio", "mesh"), [(2, 1), (99, 59), (205, 122), (206, 123), (500, 300)])
def test_frames_are_counted_as_in_the_release(audio: int, mesh: int) -> None:
    # 205 / 50 is 4.1, of which the nearest double is a little less: times 30, 122.99999999999999
    assert network.stretched_frames(audio, 30) == mesh

"""The published network against numbers of the release itself, and its files.

tests/data/release.npz holds figures of the public release (1550de8), run unchanged on a CPU in
float32 (transformers 4.56, torch 2.13, attention "eager"): two decoder modules at width 64 with
weights, outputs and gradients; what the two whole networks predict for weights that are filled by
rule, so that no weight need be stored; names and shapes of the published files.
"""

import dataclasses
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import release
from common.errors import EXIT_BAD_INPUT, UserError, run_cli
from config import RECIPES, XLSR_LARGE, ModelConfig
from released import network, weights
from released.network import AttentionLayer, MoEMamba, ReleasedJambaTalk, scaled_norm
from released.weights import convert, is_release, load_release

FIGURES = Path(__file__).parent / "data/release.npz"
TOLERANCE = 2e-4  # of the standard deviation of a frame's coordinates
SECONDS = 2
TINY_ENCODER = dict(  # of the whole networks whose numbers are known
    conv_dim=[32] * 7, conv_kernel=[10, 3, 3, 3, 3, 2, 2], hidden_size=1024, num_hidden_layers=2,
    num_attention_heads=16, intermediate_size=256, num_conv_pos_embeddings=128,
    num_conv_pos_embedding_groups=16,
)  # fmt: skip
SCALES = (  # the first pattern that fits: offset of the values, and their greatest distance from it
    (r"A_log$", 0.0, 0.1),  # and log(1 .. d_state)
    (r"(norm\d?|layer_norm)\.weight$|original0$|\.D$", 1.0, 0.1),
    (r"dt_proj\.bias$", -4.0, 1.0),
    (r"w_gating$", 0.0, 30.0),
    (r"experts\.w[12]$", 0.0, 0.15),
    (r"\.bias$", 0.0, 0.05),
    (r"conv_layers\.\d+\.conv\.weight$", 0.0, 0.35),
)
BLOCK = 1 << 18  # values filled at once: they stay in the cache


def uniform(name, count, scale):
    """(count,) float32 in [-scale, scale): splitmix64 of the name's checksum and the index."""
    values = np.empty(count, np.float32)
    start = np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
    with np.errstate(over="ignore"):
        for low in range(0, count, BLOCK):
            x = np.arange(low, min(low + BLOCK, count), dtype=np.uint64)
            x += start + np.uint64(0x9E3779B97F4A7C15)
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
                x ^= x >> np.uint64(shift)
                x *= np.uint64(factor)
            unit = (x >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0
            values[low : low + BLOCK] = unit * scale
    return values


def filled(name, shape):
    """The weight `name` that the reference network had."""
    fan_in = np.prod(shape[1:]) if len(shape) > 1 else shape[0]
    fitting = [row[1:] for row in SCALES if re.search(row[0], name)]
    offset, scale = fitting[0] if fitting else (0.0, (3.0 / fan_in) ** 0.5)
    values = uniform(name, int(np.prod(shape)), scale).reshape(shape)
    if name.endswith("A_log"):
        values = np.log(np.arange(1.0, shape[-1] + 1)) + values
    return torch.from_numpy(np.asarray(offset + values if offset else values, np.float32))


def shapes(figures, kind):
    """{name: shape} of what prediction needs of a published file."""
    lines = bytes(figures[f"{kind}/published"]).decode().splitlines()
    pairs = (line.split(" ") for line in lines)
    return {name: tuple(map(int, shape.split("x"))) for name, shape in pairs}


def worst(got, wanted, scale=None):
    """The largest difference, relative to `scale` or else to the spread of what is wanted."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return float((np.abs(got - wanted) / (wanted.std() if scale is None else scale)).max())


@pytest.fixture(scope="module")
def figures():
    with np.load(FIGURES) as archive:
        return dict(archive)


# ---- the numbers of the release ----------------------------------------------------------------


def reference_network(figures, kind):
    """The network of `kind` with the weights of the reference."""
    published = load_shapes_only(shapes(figures, kind)).config
    config = dataclasses.replace(published, encoder=XLSR_LARGE | TINY_ENCODER)
    with torch.device("meta"):
        names = ReleasedJambaTalk(config).state_dict()
    return load_release({name: filled(name, value.shape) for name, value in names.items()})


def load_shapes_only(named_shapes):
    return load_release({k: torch.empty(v, device="meta") for k, v in named_shapes.items()})


@pytest.mark.parametrize("kind", ["vocaset", "BIWI"])
def test_the_whole_network_predicts_what_the_release_predicts(figures, kind):
    model = reference_network(figures, kind)
    time = np.arange(16_000 * SECONDS) / 16_000
    tremolo = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * time)
    audio = (0.8 * uniform("audio", len(time), 1.0) * tremolo).astype(np.float32)[None]
    template = uniform("template", 3 * model.config.n_vertices, 0.1).reshape(-1, 3)
    steps = record_steps(model)
    vertices = model.predict(torch.from_numpy(audio), torch.from_numpy(template)).numpy()

    wanted = {name[len(kind) + 1 :]: v for name, v in figures.items() if name.startswith(kind)}
    spread = wanted["frame_std"]
    flat = vertices.reshape(len(vertices), -1)
    errors = {
        "vertices": worst(flat[:, wanted["coordinate_index"]], wanted["vertices"], spread[:, None]),
        "mean": worst(flat.mean(1, dtype=np.float64), wanted["frame_mean"], spread),
        "std": worst(flat.std(1, dtype=np.float64), spread, spread),
    }
    for name in (n[5:] for n in wanted if n.startswith("step/")):
        errors[name] = worst(steps[name][::9, ::37], wanted[f"step/{name}"])
    print(f"{kind}: worst relative differences", errors)
    assert len(vertices) == len(wanted["vertices"]) == {"vocaset": 59, "BIWI": 49}[kind]
    assert max(errors.values()) < TOLERANCE


def record_steps(model):
    """{"mamba_0": (T, D), ...}: outputs of the decoder's modules in order of call."""
    found = {}
    for name in ("audio_feature_map", "mamba", "mamba_moe", "transformer_decoder"):

        def keep(_module, _inputs, output, name=name):
            call = sum(key.rpartition("_")[0] == name for key in found)
            found[f"{name}_{call}"] = output[0].numpy().copy()

        getattr(model, name).register_forward_hook(keep)
    return found


def module_errors(module, x, wanted):
    """Errors of output and gradients of a module for the loss Σ output · grad_out."""
    x = torch.from_numpy(x)[None].requires_grad_()
    output = module(x)
    (output * torch.from_numpy(wanted["grad_out"])).sum().backward()
    errors = {"out": worst(output[0].detach(), wanted["out"])}
    errors["x"] = worst(x.grad[0], wanted["grad_x"])
    for name, weight in module.named_parameters():
        errors[name] = worst(weight.grad.flatten()[::17], wanted[f"grad/{name}"])
    return errors


def test_mamba_and_its_gradients(figures):
    wanted = {k[6:]: v for k, v in figures.items() if k.startswith("mamba/")}
    module = network.Mamba(64, d_state=16, d_conv=4)
    module.load_state_dict(weights_of(wanted))
    errors = module_errors(module, figures["x"], wanted)
    print("mamba: worst relative differences", errors)
    assert max(errors.values()) < TOLERANCE


def test_the_mixture_of_experts_and_its_gradients(figures):
    """With the second experts that the release dropped in that call dropped here, too."""
    wanted = {k[10:]: v for k, v in figures.items() if k.startswith("mamba_moe/")}
    module = MoEMamba(64, d_state=8, d_conv=8, expand=2, n_experts=2)
    module.load_state_dict(weights_of(wanted))
    x = torch.from_numpy(figures["x"])[None]
    assert worst(scaled_norm(x)[0, ::6], wanted["norm_x"]) < 1e-6
    with torch.no_grad():
        assert worst(module(x)[0], wanted["out_all"]) < TOLERANCE
    kept = torch.from_numpy(wanted["kept"])
    module.moe.gate.register_forward_hook(lambda _module, _inputs, gates: gates * kept)
    errors = module_errors(module, figures["x"], wanted)
    print("mamba_moe: worst relative differences", errors)
    assert max(errors.values()) < TOLERANCE


def weights_of(wanted):
    return {k[7:]: torch.from_numpy(v) for k, v in wanted.items() if k.startswith("weight/")}


@pytest.mark.parametrize("heads", [8, 4])
def test_attention_and_its_gradients(shared_reference, heads):
    content = torch.load(shared_reference / "decoder_only_64.pt", weights_only=True)
    figures = content["modules"][f"transformer_decoder_h{heads}"]
    module = AttentionLayer(64, heads, d_ff=2048, rank=16)
    module.load_state_dict(figures["state_dict"])
    wanted = {f"grad/{k}": v.flatten()[::17] for k, v in figures["grads"].items()}
    wanted |= {"out": figures["out"][0], "grad_x": figures["grad_x"][0]}
    wanted["grad_out"] = figures["grad_weight"].numpy()
    errors = module_errors(module, content["x"][0].numpy(), wanted)
    print(f"attention, {heads} heads: worst relative differences", errors)
    assert max(errors.values()) < TOLERANCE


@pytest.fixture
def shared_reference(shared_data):
    """The folder of all reference figures; weights of the attention layers are too large here."""
    folder = shared_data.parent / "reference"
    if not folder.is_dir():
        pytest.skip("the reference figures (../shared/reference) are not here")
    return folder


# ---- shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "recipe"), [("vocaset", "vocaset"), ("BIWI", "BIWI_6")])
def test_names_and_shapes_are_those_of_the_published_files(figures, kind, recipe):
    published = shapes(figures, kind)
    model = load_shapes_only(published)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == published
    named = {key: model.config.encoder[key] for key in XLSR_LARGE}
    assert named == XLSR_LARGE
    wanted, config = RECIPES[recipe].model, model.config
    for field in ("n_vertices", "fps", "fold", "layout", "d_model", "n_heads", "rope_rank", "d_ff"):
        assert getattr(config, field) == getattr(wanted, field), field


@pytest.mark.parametrize(("audio", "mesh"), [(2, 1), (99, 59), (205, 122), (206, 123), (500, 300)])
def test_frames_are_counted_as_in_the_release(audio, mesh):
    # 205 / 50 is 4.1, of which the nearest double is a little less: times 30, 122.99999999999999
    assert network.stretched_frames(audio, 30) == mesh


# ---- files -------------------------------------------------------------------------------------

V = 7
SMALL_ENCODER = dict(
    conv_dim=[8] * 7, conv_kernel=[10, 3, 3, 3, 3, 2, 2], hidden_size=64, num_hidden_layers=1,
    num_attention_heads=1, intermediate_size=16, num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
)  # fmt: skip


def small_state(kind="vocaset"):
    """A state dict in the published format, training-only weights included."""
    config = ModelConfig(
        encoder=XLSR_LARGE | SMALL_ENCODER, n_vertices=V, d_model=16, d_ff=24,
        **({"fps": 30, "fold": 1} if kind == "vocaset" else {"fps": 25, "fold": 2}),
        layout="MEAEME" if kind == "vocaset" else "MEMEAEMEME",
        n_heads=8 if kind == "vocaset" else 4,
    )  # fmt: skip
    names = ReleasedJambaTalk(config).state_dict()
    state = {name: filled(name, value.shape) for name, value in names.items()}
    for name in ("text_encoder.lm_head.weight", "transformer.encoder.norm.weight"):
        state[name] = torch.zeros(1000, 1000)
    return state | {"lip_map.weight": torch.zeros(3, 3), "lm_head.bias": torch.zeros(3)}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small file in the published format."""
    path = tmp_path_factory.mktemp("release") / "vocaset.pth"
    torch.save(small_state(), path)
    return path


def speech(seconds=0.5):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, int(16_000 * seconds), generator=generator), torch.zeros(V, 3)


@pytest.mark.parametrize(("kind", "frames"), [("vocaset", 14), ("BIWI", 12)])
def test_a_published_file_predicts_as_its_state_dict(tmp_path, kind, frames):
    state = small_state(kind)
    torch.save(state, tmp_path / "x.pth")
    from_file, from_dict = load_release(tmp_path / "x.pth"), load_release(state)
    wanted = from_dict.predict(*speech())
    assert wanted.shape == (frames, V, 3) and wanted.std() > 1e-3 and not from_file.training
    torch.testing.assert_close(from_file.predict(*speech()), wanted, atol=0, rtol=0)


def test_weights_are_mapped_from_the_file_and_never_copied(published, monkeypatch):
    asked = {}
    real_load = torch.load

    def load(*arguments, **options):
        asked.update(options)
        return real_load(*arguments, **options)

    monkeypatch.setattr(torch, "load", load)
    load_release(published)
    assert asked["mmap"] and asked["weights_only"]
    state = small_state()
    for name, weight in load_release(state).state_dict().items():
        assert weight.data_ptr() == state[name].data_ptr(), name


def test_a_converted_file_predicts_as_the_published_one(published, tmp_path):
    wanted = load_release(published).predict(*speech())
    convert(published, tmp_path / "a" / "whole.safetensors")
    convert(published, tmp_path / "a" / "half.safetensors", half=True)
    whole, half = (load_release(tmp_path / f"a/{n}.safetensors") for n in ("whole", "half"))
    torch.testing.assert_close(whole.predict(*speech()), wanted, atol=0, rtol=0)
    rounded = load_release({k: v.half().float() for k, v in whole.state_dict().items()})
    assert half.vertice_map_r.weight.dtype == torch.float32
    torch.testing.assert_close(half.predict(*speech()), rounded.predict(*speech()), atol=0, rtol=0)
    files = [tmp_path / "a/half.safetensors", tmp_path / "a/whole.safetensors", published]
    sizes = [path.stat().st_size for path in files]
    assert sizes == sorted(sizes) and sorted(files[0].parent.iterdir()) == files[:2]
    convert(tmp_path / "a/half.safetensors", tmp_path / "a/half.safetensors")  # onto itself
    torch.testing.assert_close(
        load_release(tmp_path / "a/half.safetensors").predict(*speech()), half.predict(*speech())
    )


def test_weight_norm_is_known_under_its_older_names():
    state = small_state()
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in state.items()
    }
    assert len(set(older) - set(state)) == 2
    torch.testing.assert_close(
        load_release(older).predict(*speech()), load_release(state).predict(*speech())
    )


def test_an_encoder_of_another_build_is_given_by_its_config():
    state = small_state()
    two_heads = load_release(state, XLSR_LARGE | SMALL_ENCODER | {"num_attention_heads": 2})
    assert two_heads.audio_encoder.encoder.layers[0].attention.num_heads == 2
    assert load_release(state).audio_encoder.encoder.layers[0].attention.num_heads == 1
    from transformers import Wav2Vec2Config

    config = Wav2Vec2Config(**two_heads.config.encoder)
    torch.testing.assert_close(
        load_release(state, config).predict(*speech()), two_heads.predict(*speech())
    )


def test_files_are_told_apart(published, tmp_path):
    convert(published, tmp_path / "x.safetensors")
    shutil.copy(published, tmp_path / "no_suffix")
    assert all(map(is_release, [published, tmp_path / "x.safetensors", tmp_path / "no_suffix"]))
    assert not is_release(Path(__file__)) and not is_release(Path(weights.__file__).parent)
    assert not is_release(Path(weights.__file__).parent / "synthetic/model.safetensors")


class Trap:
    """Runs code when it is unpickled by anything that lets it."""

    def __reduce__(self):
        return exec, ("raise SystemExit('the file ran code')",)


def bad_files(folder, published):
    """{file: words of its refusal}."""
    content, state = published.read_bytes(), small_state()
    (folder / "page.pth").write_bytes(b"<html>quota exceeded</html>")
    (folder / "short.pth").write_bytes(content[:30_000])
    (folder / "end.pth").write_bytes(content[:-500])
    torch.save({"mamba.D": Trap()}, folder / "trap.pth")
    torch.save([1, 2], folder / "list.pth")
    torch.save({"epoch": 3, "model": state}, folder / "wrapped.pth")
    torch.save({"weight": torch.zeros(3)}, folder / "other.pth")
    torch.save({k: v for k, v in state.items() if k != "mamba.D"}, folder / "lacks.pth")
    torch.save(state | {"mamba.D": torch.zeros(31)}, folder / "shape.pth")
    torch.save(state | {"mamba.A_log": torch.zeros(32)}, folder / "flat.pth")
    torch.save(state | {"unknown.weight": torch.zeros(3)}, folder / "more.pth")
    (folder / "x.safetensors").write_bytes(b"no weights")
    torch.save({"generators": {}, "epoch": 3, "model": state}, folder / "last.pt")
    save_file({"x": torch.zeros(1)}, folder / "own.safetensors", metadata={"jambatalk": "{}"})
    (folder / "folder.pth").mkdir()
    return {
        "page.pth": "web page",
        "short.pth": "damaged or truncated at 0 MB",
        "end.pth": "damaged or truncated",
        "trap.pth": "never loaded",
        "list.pth": "contains a list",
        "wrapped.pth": "'epoch' is not a weight",
        "other.pth": "expected a state dict of the JambaTalk release",
        "lacks.pth": "mamba.D: none, expected (32,)",
        "shape.pth": "mamba.D: (31,), expected (32,)",
        "flat.pth": "too few dimensions",
        "more.pth": "unknown.weight: (3,), expected none",
        "x.safetensors": "not a model file",
        "last.pt": "a training state; give best.safetensors from the same folder",
        "own.safetensors": "a model of this project; demo.py takes it as it is",
        "folder.pth": "is a folder",
        "missing.pth": "no such file",
    }


def test_bad_files_are_refused_in_one_line(published, tmp_path, capsys):
    for name, words in bad_files(tmp_path, published).items():
        with pytest.raises(UserError, match=re.escape(words)) as caught:
            load_release(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    code = run_cli(
        release.main, ["convert", str(tmp_path / "short.pth"), str(tmp_path / "y.safetensors")]
    )
    assert code == EXIT_BAD_INPUT and capsys.readouterr().err.startswith("error: checkpoint")
    assert not list(tmp_path.glob("y.*"))


def test_convert_refuses_names_it_cannot_write(published, tmp_path):
    with pytest.raises(UserError, match="ends in .safetensors"):
        convert(published, tmp_path / "x.pth")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        convert(published, tmp_path / "file" / "x.safetensors")


def test_converting_prints_both_sizes(published, tmp_path, capsys):
    target = tmp_path / "x.safetensors"
    assert run_cli(release.main, ["convert", str(published), str(target), "--half"]) == 0
    assert re.search(r"x\.safetensors: \d+ MB of 8 MB", capsys.readouterr().out)


# ---- clips -------------------------------------------------------------------------------------


def test_long_audio_is_convolved_in_stretches_with_the_same_result(monkeypatch):
    model = load_release(small_state())
    audio, _ = speech(3.3)
    with torch.no_grad():
        whole = model.convolve(audio)
        monkeypatch.setattr(network, "CHUNK_S", 1)
        torch.testing.assert_close(model.convolve(audio), whole, atol=1e-5, rtol=1e-4)
    assert whole.shape[-1] == (52_800 - 400) // 320 + 1


def test_a_clip_comes_in_pieces_that_join(monkeypatch):
    model, (audio, template) = load_release(small_state()), speech(1.0)
    with torch.no_grad():
        wanted = model(audio, template)[0]
    monkeypatch.setattr(network, "HEAD_FRAMES", 11)
    pieces = list(model.stream(audio[0], template))
    assert [len(piece) for piece in pieces] == [11, 11, 7]
    torch.testing.assert_close(torch.cat(pieces), wanted, atol=1e-6, rtol=1e-5)


def test_clips_and_templates_that_do_not_fit_are_refused():
    model, (audio, template) = load_release(small_state()), speech()
    assert len(model.predict(audio[:, :720], template)) == 1
    with pytest.raises(ValueError, match="719 samples"):
        model.predict(audio[:, :719], template)
    with pytest.raises(ValueError, match="template"):
        model.predict(audio, template[1:])
    with pytest.raises(ValueError, match="expected one clip"):
        model.predict(audio.expand(2, -1), template)

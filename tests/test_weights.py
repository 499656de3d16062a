"""Files of published weights: loaded, converted, refused; prediction in chunks."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import release
from common.errors import EXIT_BAD_INPUT, UserError, run_cli
from config import BUNDLED_MODEL, XLSR_LARGE
from released import network, weights
from released.weights import convert, is_release, load_release
from tests.published import SMALL_ENCODER, V, small_state, speech


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file in the published format."""
    path = tmp_path_factory.mktemp("release") / "vocaset.pth"
    torch.save(small_state(), path)
    return path


@pytest.mark.parametrize(("kind", "frames"), [("vocaset", 14), ("BIWI", 12)])
def test_a_published_file_predicts_as_its_state_dict(
    tmp_path: Path, kind: str, frames: int
) -> None:
    state = small_state(kind)
    torch.save(state, tmp_path / "x.pth")
    from_file, from_dict = load_release(tmp_path / "x.pth"), load_release(state)
    expected = from_dict.predict(*speech())
    assert expected.shape == (frames, V, 3) and expected.std() > 1e-3 and not from_file.training
    torch.testing.assert_close(from_file.predict(*speech()), expected, atol=0, rtol=0)


def test_weights_are_mapped_from_the_file_and_never_copied(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options_used = {}
    real_load = torch.load

    def load(*arguments, **options):
        options_used.update(options)
        return real_load(*arguments, **options)

    monkeypatch.setattr(torch, "load", load)
    load_release(published)
    assert options_used["mmap"] and options_used["weights_only"]
    state = small_state()
    for name, weight in load_release(state).state_dict().items():
        assert weight.data_ptr() == state[name].data_ptr(), name


def test_a_converted_file_predicts_as_the_published_one(published: Path, tmp_path: Path) -> None:
    expected = load_release(published).predict(*speech())
    convert(published, tmp_path / "a" / "whole.safetensors")
    convert(published, tmp_path / "a" / "half.safetensors", half=True)
    whole, half = (load_release(tmp_path / f"a/{n}.safetensors") for n in ("whole", "half"))
    torch.testing.assert_close(whole.predict(*speech()), expected, atol=0, rtol=0)
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


def test_weight_norm_is_loaded_under_its_older_names() -> None:
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


def test_an_encoder_of_other_dimensions_is_given_by_its_config() -> None:
    state = small_state()
    two_heads = load_release(state, XLSR_LARGE | SMALL_ENCODER | {"num_attention_heads": 2})
    assert two_heads.audio_encoder.encoder.layers[0].attention.n_heads == 2
    assert load_release(state).audio_encoder.encoder.layers[0].attention.n_heads == 1
    from transformers import Wav2Vec2Config

    config = Wav2Vec2Config(**two_heads.config.encoder)
    torch.testing.assert_close(
        load_release(state, config).predict(*speech()), two_heads.predict(*speech())
    )


def test_published_files_are_recognised(published: Path, tmp_path: Path) -> None:
    convert(published, tmp_path / "x.safetensors")
    shutil.copy(published, tmp_path / "no_suffix")
    assert all(map(is_release, [published, tmp_path / "x.safetensors", tmp_path / "no_suffix"]))
    assert not is_release(Path(__file__)) and not is_release(Path(weights.__file__).parent)
    assert not is_release(BUNDLED_MODEL)


class Trap:
    """Runs code when it is unpickled without restrictions."""

    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('the file ran code')",)


def bad_files(folder: Path, published: Path) -> dict[str, str]:
    """{file: part of its error message}."""
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
        "x.safetensors": "not a model file; give vocaset.pth, biwi.pth or a file that release.py",
        "last.pt": "a training state; give best.safetensors from the same folder",
        "own.safetensors": "a model of this project; demo.py takes it as it is",
        "folder.pth": "is a folder",
        "missing.pth": "no such file",
    }


def test_bad_files_are_refused_in_one_line(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, message in bad_files(tmp_path, published).items():
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            load_release(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    code = run_cli(
        release.main, ["convert", str(tmp_path / "short.pth"), str(tmp_path / "y.safetensors")]
    )
    assert code == EXIT_BAD_INPUT and capsys.readouterr().err.startswith("error: checkpoint")
    assert not list(tmp_path.glob("y.*"))


def test_convert_refuses_names_that_cannot_be_written(published: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ends in .safetensors"):
        convert(published, tmp_path / "x.pth")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        convert(published, tmp_path / "file" / "x.safetensors")


def test_converting_prints_both_sizes(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x.safetensors"
    assert run_cli(release.main, ["convert", str(published), str(target), "--half"]) == 0
    assert re.search(r"x\.safetensors: \d+ MB of 8 MB", capsys.readouterr().out)


def test_long_audio_is_convolved_in_chunks_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load_release(small_state())
    audio, _ = speech(3.3)
    with torch.no_grad():
        whole = model.convolve(audio)
        monkeypatch.setattr(network, "CHUNK_S", 1)
        torch.testing.assert_close(model.convolve(audio), whole, atol=1e-5, rtol=1e-4)
    assert whole.shape[-1] == (52_800 - 400) // 320 + 1


def test_a_clip_is_predicted_in_chunks_that_join(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (audio, template) = load_release(small_state()), speech(1.0)
    with torch.no_grad():
        expected = model(audio, template)[0]
    monkeypatch.setattr(network, "HEAD_FRAMES", 11)
    chunks = list(model.stream(audio[0], template))
    assert [len(chunk) for chunk in chunks] == [11, 11, 7]
    torch.testing.assert_close(torch.cat(chunks), expected, atol=1e-6, rtol=1e-5)


def test_clips_and_templates_of_wrong_shapes_are_refused() -> None:
    model, (audio, template) = load_release(small_state()), speech()
    assert len(model.predict(audio[:, :720], template)) == 1
    with pytest.raises(ValueError, match="719 samples"):
        model.predict(audio[:, :719], template)
    with pytest.raises(ValueError, match="template"):
        model.predict(audio, template[1:])
    for wrong in (audio.expand(2, -1), "speech.wav"):
        with pytest.raises(ValueError, match=r"expected a float32 tensor \(S,\)"):
            model.predict(wrong, template)
    with pytest.raises(ValueError, match="zero mean and unit variance"):
        model.predict(32768 * audio, template)

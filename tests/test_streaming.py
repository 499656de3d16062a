"""The live engine: blocks of any size, what a frame depends on, and what its parts equal."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.faces import choose_face
from jambatalk import Checkpoint, load_checkpoint
from layers.mamba import MambaLayer
from layers.moe import MoEMambaLayer
from layers.transformer import TransformerLayer
from streaming.curves import LiveCurves
from streaming.decoder import LiveDecoder
from streaming.engine import Stream
from streaming.latency import Latencies
from streaming.listener import FLOOR, running_level
from streaming.resampler import BlockResampler
from tests.streams import MOONSHINE, checkpoint
from tests.toy import ENCODERS, V

RATE = 16_000


@pytest.fixture(params=["moonshine", "wav2vec2"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    """A checkpoint with either kind of encoder."""
    wav2vec = ENCODERS["layer"] | {"model_type": "wav2vec2"}
    return checkpoint(tmp_path, MOONSHINE if request.param == "moonshine" else wav2vec)


@pytest.fixture
def sound(rng: np.random.Generator) -> np.ndarray:
    """1.3 s of noise whose loudness changes, at 16 kHz."""
    time = np.arange(int(1.3 * RATE)) / RATE
    return (0.1 * rng.standard_normal(len(time)) * np.sin(7 * time) ** 2).astype(np.float32)


def speak(stream: Stream, sound: np.ndarray, size: int) -> np.ndarray:
    """The frames (T, ...) of a sound pushed in blocks of `size` samples."""
    stream.reset()
    frames = [f for i in range(0, len(sound), size) for f in stream.push(sound[i : i + size])]
    frames += stream.flush()
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert [frame.time_s for frame in frames] == [i / 30 for i in range(len(frames))]
    return np.stack([frame.values for frame in frames])


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_blocks_of_any_size_give_bit_equal_frames(
    model: Checkpoint, sound: np.ndarray, rate: int
) -> None:
    stream = Stream(model, sample_rate=rate, context_s=0.5)
    short = sound[: rate // 5]
    assert np.array_equal(speak(stream, short, 1), speak(stream, short, 10_000))
    whole = speak(stream, sound, rate)
    assert np.array_equal(whole, speak(stream, sound, rate // 100))
    assert len(whole) == -(-len(sound) * 30 // rate)


def test_a_frame_depends_on_no_sound_beyond_its_look_ahead(
    model: Checkpoint, sound: np.ndarray
) -> None:
    stream = Stream(model, look_ahead_s=0.1, context_s=0.5)
    begin = len(sound) // 2
    changed = sound.copy()
    changed[begin:] *= -3
    one, other = speak(stream, sound, 800), speak(stream, changed, 800)
    equal = (one == other).all(axis=(1, 2))
    # steps of two frames share the look-ahead of the second
    first_changed = int(np.argmin(equal))
    assert abs(first_changed - (begin / RATE - 0.1) * 30) <= 2
    assert not equal[first_changed:].any()


def test_a_bad_block_is_refused_and_the_stream_goes_on(
    model: Checkpoint, sound: np.ndarray
) -> None:
    stream = Stream(model, context_s=0.5)
    expected = speak(stream, sound, 5_000)
    stream.reset()
    frames = stream.push(sound[:7_000])
    for bad in (np.full(100, np.nan, np.float32), np.zeros((3, 2, 2)), np.arange(5), "text"):
        with pytest.raises(ValueError, match=r"^(samples|recording): "):
            stream.push(bad)
    with pytest.raises(ValueError, match="one channel"):
        stream.push(np.zeros((4, 2), np.float32))
    frames += stream.push(sound[7_000:]) + stream.flush()
    assert np.array_equal(np.stack([frame.values for frame in frames]), expected)


@pytest.mark.parametrize("flags", [
    {"look_ahead_s": -0.1}, {"look_ahead_s": 3}, {"context_s": 0}, {"output": "video"},
    {"sample_rate": 7_999}, {"sample_rate": 44_100.5},
])  # fmt: skip
def test_settings_out_of_range_are_refused(tmp_path: Path, flags: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        Stream(checkpoint(tmp_path, MOONSHINE), **flags)


def test_coefficients_times_components_are_the_vertices(tmp_path: Path, sound: np.ndarray) -> None:
    model = checkpoint(tmp_path, MOONSHINE)
    vertices = speak(Stream(model), sound, 4_000)
    coefficients = speak(Stream(model, output="coefficients"), sound, 4_000)
    last = model.model.head.offsets
    offsets = torch.from_numpy(coefficients) @ last.weight.T + last.bias
    template = Stream(model).template
    expected = template + offsets.unflatten(-1, (V, 3))
    np.testing.assert_allclose(vertices, expected.detach(), atol=1e-5)


def test_silence_costs_no_encoding(
    tmp_path: Path, sound: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(checkpoint(tmp_path, MOONSHINE), context_s=0.5)
    calls = []
    real = stream.model.encoder.window
    monkeypatch.setattr(stream.model.encoder, "window", lambda *a: calls.append(a) or real(*a))
    silent = speak(stream, np.zeros(RATE, np.float32), 1_600)
    assert not calls
    assert len(silent) == 30
    speak(stream, sound, 1_600)
    assert calls


def test_no_sound_gives_no_frames(tmp_path: Path) -> None:
    stream = Stream(checkpoint(tmp_path, MOONSHINE))
    assert stream.push(np.zeros(0, np.float32)) == []
    assert stream.flush() == []


@pytest.mark.parametrize("kind", ["M", "E"])
def test_steps_of_a_mamba_layer_equal_all_frames_at_once(kind: str) -> None:
    torch.manual_seed(0)
    layer = MambaLayer(8, 12) if kind == "M" else MoEMambaLayer(8, 12, d_state=4)
    x, state, outputs = torch.randn(2, 11, 8), None, []
    for start, stop in ((0, 1), (1, 6), (6, 11)):
        # frames behind `stop` are provisional: the next step computes them again
        y, state = layer.step(x[:, start : stop + 2], state, stop - start)
        outputs.append(y[:, : stop - start])
    expected = layer(x) if kind == "M" else layer(x)[0]
    torch.testing.assert_close(torch.cat(outputs, dim=1), expected, atol=1e-5, rtol=1e-4)


def test_the_last_frames_of_attention_equal_those_of_all_frames_at_once() -> None:
    torch.manual_seed(0)
    layer = TransformerLayer(16, 24, n_heads=4, n_kv_heads=2, rope_rank=3)
    torch.nn.init.normal_(layer.attention.rotary.w2.weight)
    x = torch.randn(1, 9, 16)
    _, past = layer.step(x[:, :6], None, 6, reach=9)
    y, kept = layer.step(x[:, 6:], past, 2, reach=4)
    torch.testing.assert_close(y, layer(x)[:, 6:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(kept, layer.attention_norm(x)[:, 4:8])


def test_one_step_over_a_whole_clip_is_the_decoder(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, MOONSHINE).model
    features = torch.randn(1, 20, model.encoder.width)
    decoder = LiveDecoder(model, reach=60)
    hidden, _ = decoder.step(features, decoder.start(), 20)
    with torch.inference_mode():
        torch.testing.assert_close(hidden, model.hidden(features)[0], atol=1e-5, rtol=1e-4)


def test_the_frames_of_a_step_are_means_with_what_the_step_before_expected(
    tmp_path: Path,
) -> None:
    decoder = LiveDecoder(checkpoint(tmp_path, MOONSHINE).model, reach=60)
    first, second = torch.randn(2, 1, 9, decoder.model.encoder.width)
    _, state = decoder.step(first, decoder.start(), 4)
    more, _ = decoder.step(first, decoder.start(), 6)
    torch.testing.assert_close(state.expected, more[:, 4:])
    alone, _ = decoder.step(second, state._replace(expected=None), 2)
    hidden, _ = decoder.step(second, state, 2)
    torch.testing.assert_close(hidden[:, 0], 0.6 * alone[:, 0] + 0.4 * more[:, 4])
    torch.testing.assert_close(hidden[:, 1], 0.8 * alone[:, 1] + 0.2 * more[:, 5])
    _, state = decoder.step(first[:, :4], decoder.start(), 4)  # nothing is heard ahead
    assert state.expected is None


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_a_resampled_tone_is_the_tone_at_16_khz(rate: int) -> None:
    seconds = np.arange(rate) / rate
    resampler = BlockResampler(rate)
    tone = np.sin(2 * np.pi * 1_000 * seconds).astype(np.float32)
    blocks = [resampler.push(tone[i : i + 331]) for i in range(0, rate, 331)]
    result = np.concatenate([*blocks, resampler.flush()])
    assert len(result) == RATE
    expected = np.sin(2 * np.pi * 1_000 * np.arange(RATE) / RATE)
    assert np.abs(result - expected)[200:-200].max() < 1e-3


def test_what_16_khz_cannot_hold_is_filtered_out() -> None:
    resampler = BlockResampler(48_000)
    tone = np.sin(2 * np.pi * 12_000 * np.arange(48_000) / 48_000).astype(np.float32)
    result = resampler.push(tone)
    assert np.abs(result[200:-200]).max() < 1e-3


def test_a_steady_level_is_its_amplitude_and_a_rise_counts_at_once() -> None:
    steady = np.full(600, 0.1)
    assert running_level(steady)[300] == pytest.approx(0.1, rel=1e-2)
    rise = np.concatenate([np.full(400, 0.001), np.full(30, 0.2)])
    assert running_level(rise)[-1] >= 0.09
    # a quarter of the 4 s before: 1/4 - 1/(2 pi) of the window, by its integral
    fall = np.concatenate([np.full(400, 0.2), np.full(401, 0.001)])
    assert running_level(fall)[-300] == pytest.approx(0.019, rel=0.05)
    assert running_level(fall)[-1] < 0.002
    assert running_level(np.zeros(900))[-1] == FLOOR


def test_delays_count_from_the_instant_of_the_sound() -> None:
    latencies = Latencies()
    assert np.isnan(latencies.percentiles().p50_ms)
    latencies.arrived(now=100.1, sound_s=0.1)
    latencies.arrived(now=100.25, sound_s=0.2)  # 50 ms late
    for index in range(4):
        latencies.returned(now=100.3, instant_s=0.05 * index)
    # 300, 250, 200 and 150 ms
    p50, p95, worst = latencies.percentiles()
    assert p50 == pytest.approx(225, abs=0.1)
    assert p95 == pytest.approx(292.5, abs=0.1)
    assert worst == pytest.approx(300, abs=0.1)


def test_curves_do_not_depend_on_the_unit_of_the_mesh() -> None:
    """A head that predicts another unit than metres, as BIWI's, gives the same curves."""
    model, spec = load_checkpoint()
    template = choose_face(spec, None, None)[1]
    motion = np.random.default_rng(0).normal(size=(5, model.config.vertex_rank)).astype("f4")
    expected = LiveCurves(spec, template, model.head, 1.0)(motion)
    for parameter in model.head.offsets.parameters():
        parameter.data /= 0.1856
    other = replace(spec, metres_per_unit=0.1856)
    curves = LiveCurves(other, template / np.float32(0.1856), model.head, 1.0)(motion)
    assert expected.max() > 0.1
    np.testing.assert_allclose(curves, expected, atol=1e-4)

"""Sound files that are damaged, truncated, hostile or odd: read whole, or refused in one line."""

import struct
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from common.errors import UserError
from speech import sound_file
from speech.audio import length_of, read_audio
from speech.sound_file import open_sound

RATE = 16_000
PLAYLISTS = {
    "live.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nnone.ts\n",
    "vod.wav": "#EXTM3U\n#EXTINF:5,\n/dev/zero\n#EXT-X-ENDLIST\n",
    "concat.wav": "ffconcat version 1.0\nfile concat.wav\n",
    "dash.mp3": '<?xml version="1.0"?><MPD><Period><BaseURL>/dev/zero</BaseURL></Period></MPD>',
    "session.m4a": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    "list.flac": "[playlist]\nFile1=/dev/zero\n",
}


def noise(seconds: float = 1.0, channels: int = 1) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.normal(0, 0.1, (round(seconds * RATE), channels)).astype(np.float32)


def with_ffmpeg(source: Path, target: Path, *arguments: str) -> Path:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(source)]
    subprocess.run([*command, *arguments, str(target)], check=True)
    return target


@pytest.mark.parametrize("name", PLAYLISTS)
def test_playlists_never_reach_a_decoder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sound_file.ffmpeg, "start", None)  # not to be called
    (tmp_path / name).write_text(PLAYLISTS[name])
    with pytest.raises(UserError, match=f"audio .*{name}: it is text .*; give the sound file"):
        read_audio(tmp_path / name)


def test_a_playlist_that_is_not_text_is_not_opened_by_ffmpeg(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", noise(), RATE)
    (tmp_path / "x.m3u8").write_bytes(b"#EXTM3U\n#\0\n#EXTINF:1,\nx.wav\n#EXT-X-ENDLIST\n")
    with pytest.raises(UserError, match="neither libsndfile nor ffmpeg"):
        read_audio(tmp_path / "x.m3u8")


def test_no_name_is_taken_for_an_option_a_pattern_or_a_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "x.wav", noise(0.2), RATE)
    path = with_ffmpeg(tmp_path / "x.wav", tmp_path / "x.m4a")
    monkeypatch.chdir(tmp_path)
    for name in ("-y.m4a", "%d.m4a", "concat:a|b.m4a", "file:x.m4a", "a b'\".m4a", "声.m4a"):
        path = path.rename(name)
        assert abs(len(read_audio(name)) - 3200) < 1024


def test_a_raw_file_is_read_if_it_has_a_header(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.raw", noise(), RATE, format="WAV", subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "x.raw"), noise()[:, 0])
    (tmp_path / "y.raw").write_bytes((noise() * 32_767).astype("<i2").tobytes())
    with pytest.raises(UserError, match="neither libsndfile nor ffmpeg"):
        read_audio(tmp_path / "y.raw")


TRUNCATED = ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "NIST"]


@pytest.mark.parametrize("kind", TRUNCATED)
def test_half_a_file_is_refused_with_both_lengths(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    soundfile.write(path, noise(), RATE, format=kind, subtype="PCM_16")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"x\.bin: truncated: 1\d+ bytes of sound, expected 32000"):
        read_audio(path)


def test_half_a_sphere_file_of_mu_law_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"  # as in many speech corpora
    soundfile.write(path, noise(channels=2), RATE, format="NIST", subtype="ULAW")
    read_audio(path)
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(UserError, match="truncated: 8976 bytes of sound, expected 32000"):
        read_audio(path)


def test_formats_whose_end_is_not_checked_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "x.voc"
    soundfile.write(path, noise(), RATE, format="VOC", subtype="PCM_16")
    read_audio(path)
    assert "the format VOC is complete is not checked" in capsys.readouterr().err


@pytest.mark.parametrize("kind", TRUNCATED)
def test_four_missing_bytes_are_a_warning(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, samples = tmp_path / "x.bin", np.rint(noise() * 32_767).astype(np.int16)
    soundfile.write(path, samples, RATE, format=kind, subtype="PCM_16")
    whole, content = read_audio(path), path.read_bytes()
    stored = samples.astype(">i2" if kind in ("AIFF", "AU", "CAF") else "<i2").tobytes()
    path.write_bytes(content[: content.index(stored) + len(stored) - 4])
    audio = read_audio(path)
    assert np.array_equal(audio, whole[:-2])
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == [
        f"warning: audio {path}: the last 4 bytes (0.1 ms) are missing; the rest is used"
    ]


def test_a_truncated_mp3_and_ogg_are_a_warning_with_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for kind in ("mp3", "ogg"):
        path = tmp_path / f"x.{kind}"
        soundfile.write(path, noise(3.0), RATE)
        read_audio(path)
        assert not capsys.readouterr().err
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 3 // 4])
        assert 1.0 < len(read_audio(path)) / RATE < 2.6
        assert "truncated?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("x.m4a", ("-c:a", "alac", "-movflags", "+faststart")), ("x.mka", ("-c:a", "aac"))],
)
def test_a_truncated_file_read_by_ffmpeg_is_a_warning_with_seconds(
    name: str, arguments: tuple, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    soundfile.write(tmp_path / "x.wav", noise(4.0), RATE)
    path = with_ffmpeg(tmp_path / "x.wav", tmp_path / name, *arguments)
    read_audio(path)
    assert not capsys.readouterr().err
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert 1.0 < len(read_audio(path)) / RATE < 3.0
    assert "s of sound, its header says 4.0" in capsys.readouterr().err


@pytest.mark.parametrize("sizes", [(0, 0), (36, 0)])
def test_a_recorder_that_was_never_closed_is_read_to_its_end(
    sizes: tuple, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(channels=3), RATE, subtype="FLOAT")
    whole, content = read_audio(path), bytearray(path.read_bytes())
    data = content.find(b"data") + 4
    content[4:8], content[data : data + 4] = (size.to_bytes(4, "little") for size in sizes)
    path.write_bytes(content)
    assert np.array_equal(read_audio(path), whole)
    assert length_of(path) == 1
    assert capsys.readouterr().err.count("a length of 0") == 1


@pytest.mark.parametrize("xing", ["0", "1"])
def test_the_length_of_an_mp3_is_that_of_its_samples(xing: str, tmp_path: Path) -> None:
    """Without a Xing header libsndfile estimates it, which is off by whole frames."""
    soundfile.write(tmp_path / "x.wav", noise(3.0), RATE)
    arguments = ("-write_xing", xing, "-b:a", "64k")
    path = with_ffmpeg(tmp_path / "x.wav", tmp_path / "x.mp3", *arguments)
    assert length_of(path) * RATE == len(read_audio(path))


def test_control_characters_of_a_name_are_escaped_in_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    soundfile.write(tmp_path / "a.wav", noise(), RATE)
    path = tmp_path / "a\x1b[2J.wav"
    path.write_bytes((tmp_path / "a.wav").read_bytes()[:-4])
    read_audio(path)
    assert "a\\x1b[2J.wav: the last 4 bytes" in capsys.readouterr().err


def test_an_empty_wav_with_other_chunks_behind_is_empty(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(0), RATE)
    content = (tmp_path / "x.wav").read_bytes()
    (tmp_path / "x.wav").write_bytes(content + b"LIST\x04\0\0\0abcd" + b"id3 \x03\0\0\0abc\0")
    with pytest.raises(UserError, match="0 ms long"):
        read_audio(tmp_path / "x.wav")


def silent_flac(path: Path) -> None:
    """2 minutes of digital silence at 8 kHz in two channels: 2 kB."""
    soundfile.write(path, np.zeros((120 * 8_000, 2), np.int16), 8_000, format="FLAC")


def far_start(path: Path) -> None:
    """A video of 0.1 s whose sound starts after 20 hours."""
    soundfile.write(path.with_suffix(".wav"), noise(0.1), RATE)
    source = ["-itsoffset", "72000", "-i", str(path.with_suffix(".wav"))]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i"]
    command += ["color=size=16x16:duration=0.1", *source, "-c:v", "mpeg4", "-f", "matroska"]
    subprocess.run([*command, str(path)], check=True)


UNFOLDING: dict[str, tuple[Callable[[Path], object], str]] = {
    "silent.flac": (silent_flac, "1920000 samples or more, expected at most 256 samples a byte"),
    "far.mkv": (far_start, "20.0 hours of sound, expected at most 6; cut it"),
}


@pytest.mark.parametrize("name", UNFOLDING)
def test_a_small_file_cannot_fill_the_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sound_file, "FREE_VALUES", 1 << 16)
    make, message = UNFOLDING[name]
    make(tmp_path / name)
    tracemalloc.start()
    with pytest.raises(UserError, match=message):
        read_audio(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_a_flac_of_unknown_length_is_decoded_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "x.flac", np.zeros(40_000, np.int16), RATE)
    content = bytearray((tmp_path / "x.flac").read_bytes())
    content[21] &= 0xF0  # the number of samples: 36 bits of STREAMINFO, 0 for unknown
    content[22:26] = bytes(4)
    (tmp_path / "x.flac").write_bytes(content)
    assert open_sound(tmp_path / "x.flac").declared is None
    assert len(read_audio(tmp_path / "x.flac")) == 40_000
    monkeypatch.setattr(sound_file, "FREE_VALUES", 1000)
    monkeypatch.setattr(sound_file, "VALUES_PER_BYTE", 1)
    with pytest.raises(UserError, match="samples or more"):
        read_audio(tmp_path / "x.flac")


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e38, -3e38])
def test_samples_without_meaning_are_refused(value: float, tmp_path: Path) -> None:
    sound = noise(channels=2)
    sound[800, 1] = value
    soundfile.write(tmp_path / "x.wav", sound, RATE, subtype="FLOAT")
    with pytest.raises(UserError, match=r"x\.wav: a sample is .* at 0\.050 s"):
        read_audio(tmp_path / "x.wav")


def test_integers_of_32_bits_stored_as_floats_are_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", noise() * 2.0**31, RATE, subtype="FLOAT")
    assert read_audio(tmp_path / "x.wav").std() == pytest.approx(0.1 * 2**31, rel=0.02)


def test_a_header_with_many_channels_is_read_in_small_blocks(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(channels=1), RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[22:24], content[32:34] = struct.pack("<H", 500), struct.pack("<H", 1000)
    path.write_bytes(content)
    sound = open_sound(path)
    assert sound.channels == 500 and all(block.size <= 1 << 20 for block in sound.blocks())

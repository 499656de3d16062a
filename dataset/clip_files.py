"""The two files of a prepared clip, wav/<name>.wav and vertices_npy/<name>.npy.

Used by the readers of prepared data and by the scripts that prepare it. Hidden files (macOS's
._name, temporary files) are not clips.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

from numpy.typing import NDArray

from common.errors import UserError, reason_of
from common.whole_file import whole_file
from files.arrays import stream_npy
from files.listing import list_files, on_disk, plain_name
from files.names import check_name

# Formats of sound that libsndfile or ffmpeg reads, without those of video.
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".aif", ".aiff",
    ".aifc", ".au", ".caf", ".w64", ".rf64", ".amr", ".mka", ".weba", ".wv", ".ac3",
)  # fmt: skip

SAME_RECORDING = "is a recording of the same clip; delete or rename one of them"
SAME_VERTICES = "holds vertices of the same clip; delete or rename one of them"

Frames = TypeVar("Frames", NDArray, list[NDArray])


def npy_path(folder: Path, name: str) -> Path:
    """The vertices of a clip in a prepared folder."""
    path = on_disk(folder / "vertices_npy" / f"{name}.npy")
    capital = path.with_suffix(".NPY")
    return capital if capital.exists() and not path.exists() else path


def wav_path(folder: Path, name: str) -> Path:
    """The audio that a preparation script writes for a clip."""
    return folder / "wav" / f"{name}.wav"


def make_folders(folder: Path) -> None:
    """Make wav/ and vertices_npy/ in `folder`."""
    for kind in ("wav", "vertices_npy"):
        (folder / kind).mkdir(parents=True, exist_ok=True)


def is_prepared(folder: Path, name: str) -> bool:
    """Whether both files of a clip exist."""
    return npy_path(folder, name).is_file() and wav_path(folder, name).is_file()


def mesh_files(folder: Path) -> dict[str, Path]:
    """Name of a clip -> its .npy, for all of vertices_npy/, sorted by name.

    Names are in NFC. Raises `UserError` for two files of one clip.
    """
    return _by_name(folder / "vertices_npy", (".npy",), SAME_VERTICES)


def audio_files(folder: Path) -> dict[str, Path]:
    """Name of a clip -> its audio file, for all of wav/, sorted by name.

    Names are in NFC. Raises `UserError` for two files of one clip.
    """
    return _by_name(folder / "wav", AUDIO_SUFFIXES, SAME_RECORDING)


def _by_name(folder: Path, suffixes: Collection[str], same: str) -> dict[str, Path]:
    files: dict[str, list[Path]] = {}
    for path in list_files(folder, suffixes):
        files.setdefault(plain_name(path.stem), []).append(path)
    return {name: _only(files[name], same) for name in sorted(files)}


def _only(paths: list[Path], same: str) -> Path:
    """The path of a list of one; `UserError` for several files of one clip. same: in words."""
    if len(paths) > 1:
        raise UserError(f"{paths[0]}: {paths[1].name} {same}")
    return paths[0]


def find_audio(folder: Path, name: str) -> Path:
    """The audio file of a clip in a prepared folder; `UserError` if there is none or two."""
    suffixes = [variant for suffix in AUDIO_SUFFIXES for variant in (suffix, suffix.upper())]
    places = (on_disk(folder / "wav" / f"{name}{suffix}") for suffix in suffixes)
    paths = [path for path in places if path.exists()]
    if not paths:
        paths = list(filter(None, [audio_files(folder).get(plain_name(name))]))  # a.Wav
    if not paths:
        raise UserError(f"{wav_path(folder, name)}: missing")
    different = [
        path for path in paths[1:] if not path.samefile(paths[0])
    ]  # x.wav is x.WAV on macOS
    return _only([paths[0], *different], SAME_RECORDING)


def write_clip(
    folder: Path, name: str, vertices: Sequence[NDArray], audio: NDArray, rate: int
) -> None:
    """Write both files of a clip, both whole or neither.

    vertices: T frames, (V, 3) or (V*3,) each, converted to float32 one at a time to save memory;
    audio: (S,) at `rate` Hz, written as 16 bit. Raises `UserError` if a file cannot be written, or
    if `name` is no file name.
    """
    import soundfile

    check_name(name, str(folder))
    try:
        with whole_file(npy_path(folder, name)) as npy, whole_file(wav_path(folder, name)) as wav:
            stream_npy(npy, (len(vertices), vertices[0].size), vertices)
            soundfile.write(wav, audio, rate, subtype="PCM_16")
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(
            f"{folder}: {name} cannot be written ({reason_of(error)}); is the disk full?"
        ) from error


def cut_to_shorter(
    vertices: Frames, audio: NDArray, rate: int, fps: int, first_frame: int = 0
) -> tuple[Frames, NDArray, float]:
    """Vertices and audio (S,) at `rate` Hz cut to the shorter, and the surplus in seconds.

    surplus > 0: the audio was longer, < 0: the vertices were. fps: frames a second. first_frame:
    number of the frame at which the vertices begin; the audio before it is dropped and not part of
    the surplus. Frame t is kept if its instant t / fps lies in the audio.
    """
    audio = audio[round(first_frame * rate / fps) :]
    surplus_s = len(audio) / rate - len(vertices) / fps
    frames = min(len(vertices), _ceil_div(len(audio) * fps, rate))
    return vertices[:frames], audio[: _ceil_div(frames * rate, fps)], surplus_s


def cut_report(name: str, surplus_s: float, fps: int) -> str:
    """A line for a clip that was cut by a frame or more; "" otherwise."""
    if abs(surplus_s) < 1 / fps:
        return ""
    longer = "audio" if surplus_s > 0 else "frames"
    return f"{name}: {longer} cut by {abs(surplus_s):.3f} s to the shorter"


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)

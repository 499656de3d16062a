"""Raw data sets in the documented layouts with fabricated content, to test the pipeline.

    python -m benchmarks.fabricate vocaset|BIWI|BIWI_6 --out DIR [--subjects N] [--sentences N]
                                   [--seconds S] [--topology FILE_OR_FOLDER]

The licences of the real files do not allow us to include them. This writes files in the same
format, at the real size:

    vocaset  data_verts.npy, subj_seq_to_idx.pkl, raw_audio_fixed.pkl (22 kHz), templates.pkl
    BIWI     faces/<subject>/<sentence>.tar of .vl, rigid_scans/<subject>.obj in millimetres with y
             down, as in the corpus, audio/<clip>_cut.wav (44.1 kHz)
    BIWI_6   ScanTalk's prepared layout: wav/, vertices_npy/ (T, V, 3), templates/<subject>.obj

The audio is a hum modulated in syllables. Its loudness opens the mouth by some millimetres, so that
a network can learn something. Audio and frames differ a little in length, as in VOCASET. Models
trained on these files are useless for real speech.

`--topology` is a mesh for all subjects or a folder of <subject>.ply/.obj; without it an ellipsoid
with the right number of vertices is used. Shapes: V vertices, F faces, T frames, S samples.
"""

import io
import pickle
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import Parser, UserError, run_cli, writable_folder
from common.whole_file import whole_file, write_whole
from config import RECIPES, DatasetSpec
from dataset.clip_files import make_folders, npy_path, wav_path
from files.arrays import stream_npy
from files.meshes import MESH_SUFFIXES, load_mesh

SEED = 1
MOUTH_OPENS_M = 0.008  # motion of the lower lip at full loudness
BROW_RISES_M = 0.001
MOUTH_REACH_M, LIP_SOFTNESS_M = 0.018, 0.0015
LENGTHS_DIFFER = 0.02  # relative: largest difference between audio and frames
SYLLABLES_HZ = (3.0, 6.0)
EGG_M = (0.075, 0.11, 0.09)  # half axes
# Where the lips meet in the public meshes, and metres per unit of these meshes. BIWI's is the mean
# of the 14 subjects' factors in FaceFormer's issue 45.
MOUTHS = {
    "vocaset": ((0.0, -0.044, 0.058), 1.0),
    "BIWI": ((0.015, -0.195, 0.085), 0.1856),
    "BIWI_6": ((-0.001, -0.050, 0.058), 1.0),
}
TO_CORPUS = np.array([1.0, -1.0, -1.0])  # B3D(AC)^2 has y down: half a turn about x


@dataclass(frozen=True)
class Face:
    """A neutral mesh in metres: vertices (V, 3), faces (F, 3), where the lips meet (3,)."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int32]
    mouth: NDArray[np.float64]


@dataclass(frozen=True)
class Clip:
    """One sentence: opening of the mouth (T,) in 0..1, and audio (S,) in -1..1."""

    subject: str
    sentence: str
    opening: NDArray[np.float64]
    audio: NDArray[np.float64]


def choose_clips(
    spec: DatasetSpec, n_subjects: int, n_sentences: int
) -> tuple[list[str], list[str]]:
    """Subjects and sentences as named in files, from all splits of `spec` in turn."""
    splits = spec.splits.values()
    subjects = _in_turn([split.subjects for split in splits])
    numbers = _in_turn([split.sentences for split in splits])
    for flag, count, largest in (
        ("--subjects", n_subjects, len(subjects)),
        ("--sentences", n_sentences, len(numbers)),
    ):
        if not 1 <= count <= largest:
            raise UserError(f"{flag} {count}: expected 1 to {largest} for {spec.name}")
    prefix = next(iter(splits)).prefix or "sentence"
    return subjects[:n_subjects], [f"{prefix}{n:02d}" for n in numbers[:n_sentences]]


def _in_turn(groups: list[tuple]) -> list:
    longest = max(map(len, groups))
    turns = (group[i] for i in range(longest) for group in groups if i < len(group))
    return list(dict.fromkeys(turns))


def make_egg(n_vertices: int) -> Face:
    """A closed mesh of exactly `n_vertices`, evenly spread on an ellipsoid the size of a head."""
    from scipy.spatial import ConvexHull

    i = np.arange(n_vertices)
    height = 1 - (2 * i + 1) / n_vertices
    around = i * np.pi * (3 - np.sqrt(5))  # the golden angle
    radius = np.sqrt(1 - height**2)
    sphere = np.stack([radius * np.cos(around), height, radius * np.sin(around)], axis=1)
    faces = ConvexHull(sphere).simplices
    corners = sphere[faces]
    inward = np.linalg.det(corners) < 0  # qhull does not orient faces
    faces[inward] = faces[inward][:, ::-1]
    direction = np.array([0.0, -0.4, np.sqrt(1 - 0.4**2)])
    return Face(sphere * EGG_M, faces.astype(np.int32), direction * EGG_M)


def load_face(path: Path, name: str, n_vertices: int) -> Face:
    """The mesh of a file, in metres; raises `UserError` unless it has the data set's V."""
    vertices, faces = load_mesh(path)
    if len(vertices) != n_vertices:
        raise UserError(f"{path}: {len(vertices)} vertices, expected {n_vertices} as in {name}")
    if len(faces) == 0:
        raise UserError(f"{path}: no triangles; choose a mesh with faces")
    mouth, metres = MOUTHS[name]
    return Face(vertices.astype(np.float64) * metres, faces, np.array(mouth) * metres)


def make_faces(spec: DatasetSpec, subjects: list[str], topology: Path | None) -> dict[str, Face]:
    """Subject -> face: its mesh of the folder, else one mesh scaled differently for each."""
    if topology is not None and topology.is_dir():
        meshes = {path.stem: path for path in topology.iterdir() if path.suffix in MESH_SUFFIXES}
        if missing := [subject for subject in subjects if subject not in meshes]:
            raise UserError(f"{topology}: no mesh of {', '.join(missing)}")
        return {s: load_face(meshes[s], spec.name, spec.n_vertices) for s in subjects}
    n = spec.n_vertices
    base = make_egg(n) if topology is None else load_face(topology, spec.name, n)
    faces = {}
    for number, subject in enumerate(subjects):
        size = 1 + 0.05 * np.random.default_rng((SEED, number)).uniform(-1, 1, size=3)
        faces[subject] = Face(base.vertices * size, base.faces, base.mouth * size)
    return faces


def speak(frames: int, fps: int, rate: int, rng: Generator) -> tuple[NDArray, NDArray]:
    """(opening (T,) at `fps`, audio (S,) at `rate` Hz); S is up to 2 % longer or shorter."""
    seconds = frames / fps * (1 + LENGTHS_DIFFER * rng.uniform(-1, 1))
    t = np.arange(round(seconds * rate)) / rate
    syllables = np.sin(np.pi * np.cumsum(rng.uniform(*SYLLABLES_HZ) / rate * np.ones_like(t))) ** 2
    words = np.clip(4 * np.sin(2 * np.pi * (0.7 * t + rng.uniform())) + 2, 0, 1)  # with pauses
    loudness = syllables * words
    pitch = 2 * np.pi * rng.uniform(90, 220) * t
    hum = sum(np.sin(k * pitch) / k for k in range(1, 9)) + 0.2 * rng.standard_normal(len(t))
    opening = np.interp(np.arange(frames) / fps, t, loudness)
    return opening, 0.15 * loudness * hum


def move(face: Face, opening: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Frames (V, 3) in metres: `opening` (T,) lowers the lower lip and raises the brows."""
    offset = face.vertices - face.mouth
    near = np.exp(-0.5 * (np.linalg.norm(offset, axis=1) / MOUTH_REACH_M) ** 2)
    below = 1 / (1 + np.exp(np.clip(offset[:, 1] / LIP_SOFTNESS_M, -50, 50)))
    brow = offset - [0.0, 0.09, 0.0]
    high = np.exp(-0.5 * (np.linalg.norm(brow, axis=1) / MOUTH_REACH_M) ** 2)
    direction = np.zeros_like(offset)
    direction[:, 1] = near * (0.1 - 1.1 * below)
    direction[:, 2] = -0.2 * near * below
    for width in opening:
        frame = face.vertices + MOUTH_OPENS_M * width * direction
        frame[:, 1] += BROW_RISES_M * np.sin(2 * np.pi * width) * high
        yield frame


def make_clips(
    spec: DatasetSpec, subjects: list[str], sentences: list[str], seconds: float, rate: int
) -> list[Clip]:
    """Every subject's sentences, 0.8 to 1.2 times `seconds` long; deterministic."""
    clips = []
    for i, subject in enumerate(subjects):
        for j, sentence in enumerate(sentences):
            rng = np.random.default_rng((SEED, i, j))
            frames = max(3, round(seconds * rng.uniform(0.8, 1.2) * spec.source_fps))
            clips.append(Clip(subject, sentence, *speak(frames, spec.source_fps, rate, rng)))
    return clips


def write_vocaset(out: Path, faces: dict[str, Face], clips: list[Clip], rate: int) -> None:
    """VOCASET's four raw files."""
    n_frames = sum(len(clip.opening) for clip in clips)
    n_vertices = len(next(iter(faces.values())).vertices)
    progress = tqdm(clips, unit="clip", disable=None)
    frames = (mesh for clip in progress for mesh in move(faces[clip.subject], clip.opening))
    with whole_file(out / "data_verts.npy") as partial:
        stream_npy(partial, (n_frames, n_vertices, 3), frames)
    rows: dict[str, dict[str, dict[int, int]]] = {}
    audio: dict[str, dict[str, dict[str, object]]] = {}
    first = 0
    for clip in clips:
        numbers = {number: first + number for number in range(len(clip.opening))}
        rows.setdefault(clip.subject, {})[clip.sentence] = numbers
        first += len(clip.opening)
        samples = np.round(clip.audio.clip(-1, 1) * 32_767).astype(np.int16)
        entry = {"audio": samples, "sample_rate": rate}
        audio.setdefault(clip.subject, {})[clip.sentence] = entry
    templates = {subject: face.vertices for subject, face in faces.items()}
    for name, content in (
        ("subj_seq_to_idx.pkl", rows),
        ("raw_audio_fixed.pkl", audio),
        ("templates.pkl", templates),
    ):
        write_whole(out / name, pickle.dumps(content, protocol=2))  # as the real ones


def write_biwi(out: Path, faces: dict[str, Face], clips: list[Clip], rate: int) -> None:
    """The folders faces/, rigid_scans/ and audio/ of B3D(AC)^2."""
    import soundfile

    for number, (subject, face) in enumerate(faces.items()):
        write_obj(out / f"rigid_scans/{subject}.obj", _in_corpus(face.vertices, number), face.faces)
    numbers = {subject: number for number, subject in enumerate(faces)}
    for clip in tqdm(clips, unit="clip", disable=None):
        folder = _made(out / "faces" / clip.subject)
        with (
            whole_file(folder / f"{clip.sentence}.tar") as partial,
            tarfile.open(partial, "w") as archive,
        ):
            for frame, vertices in enumerate(move(faces[clip.subject], clip.opening), start=1):
                content = encode_vl(_in_corpus(vertices, numbers[clip.subject]))
                entry = tarfile.TarInfo(f"frame_{frame:03d}.vl")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        wav = _made(out / "audio") / f"{clip.subject}_{clip.sentence}_cut.wav"
        with whole_file(wav) as partial:
            soundfile.write(partial, clip.audio, rate, subtype="PCM_16")


def _in_corpus(vertices: NDArray[np.float64], number: int) -> NDArray[np.float32]:
    """Vertices in metres, y up, as in the corpus: millimetres, y down, a position per subject."""
    place = np.random.default_rng((SEED, number)).uniform(-30, 30, size=3)
    return (1000 * vertices * TO_CORPUS + place).astype(np.float32)


def encode_vl(vertices: NDArray) -> bytes:
    """A .vl: the number of vertices as uint32, then (V, 3) float32, little-endian."""
    return np.uint32(len(vertices)).astype("<u4").tobytes() + vertices.astype("<f4").tobytes()


def write_obj(path: Path, vertices: NDArray, faces: NDArray) -> None:
    """Write a mesh with texture coordinates, as scanners do."""
    _made(path.parent)
    with whole_file(path) as partial, partial.open("w") as file:
        np.savetxt(file, vertices, fmt="v %.6f %.6f %.6f")
        np.savetxt(file, np.zeros((len(vertices), 2)), fmt="vt %g %g")
        np.savetxt(file, np.repeat(faces + 1, 2, axis=1), fmt="f %d/%d %d/%d %d/%d")


def write_prepared(out: Path, faces: dict[str, Face], clips: list[Clip], rate: int) -> None:
    """A folder in ScanTalk's layout, with vertices as (T, V, 3)."""
    import soundfile

    make_folders(out)
    for subject, face in faces.items():
        write_obj(out / f"templates/{subject}.obj", face.vertices, face.faces)
    for clip in tqdm(clips, unit="clip", disable=None):
        name = f"{clip.subject}_{clip.sentence}"
        frames = np.array(list(move(faces[clip.subject], clip.opening)), dtype=np.float32)
        with whole_file(npy_path(out, name)) as partial:
            np.save(partial, frames)
        with whole_file(wav_path(out, name)) as partial:
            soundfile.write(partial, clip.audio, rate, subtype="PCM_16")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


WRITERS = {  # name -> (writer, sample rate of the audio in Hz)
    "vocaset": (write_vocaset, 22_000),
    "BIWI": (write_biwi, 44_100),
    "BIWI_6": (write_prepared, 16_000),
}


def fabricate(
    spec: DatasetSpec,
    out: Path,
    n_subjects: int,
    n_sentences: int,
    seconds: float,
    topology: Path | None = None,
) -> list[Clip]:
    """Write the files of data set `spec` to `out`; returns the clips.

    The meshes have `spec.n_vertices`, so tests can use small ones.
    """
    write, rate = WRITERS[spec.name]
    subjects, sentences = choose_clips(spec, n_subjects, n_sentences)
    faces = make_faces(spec, subjects, topology)
    clips = make_clips(spec, subjects, sentences, seconds, rate)
    write(writable_folder(out), faces, clips, rate)
    return clips


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, check, write, print a summary."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=WRITERS)
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--subjects", type=int, help="number of subjects (default: all)")
    parser.add_argument("--sentences", type=int, default=3, help="per subject (default: 3)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of a sentence, mean (default: 2)"
    )
    parser.add_argument("--topology", help="a mesh, or a folder of <subject>.ply/.obj")
    args = parser.parse_args(argv)
    spec = RECIPES[args.dataset].dataset
    all_subjects = len(_in_turn([split.subjects for split in spec.splits.values()]))
    if not 0 < args.seconds <= 60:
        raise UserError(f"--seconds {args.seconds:g}: expected more than 0 and at most 60")
    clips = fabricate(
        spec,
        Path(args.out),
        all_subjects if args.subjects is None else args.subjects,
        args.sentences,
        args.seconds,
        Path(args.topology) if args.topology else None,
    )
    frames = sum(len(clip.opening) for clip in clips)
    print(f"{len(clips)} clips, {frames} frames of {spec.n_vertices} vertices in {args.out}")


if __name__ == "__main__":
    sys.exit(run_cli(main))

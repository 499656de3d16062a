"""What `bench_hostile` tries: every loader of files that others made, with valid files to mutate.

An attempt loads one file. It returns for a file that can be used, after checking what was loaded,
and raises `UserError` for any other. Every other exception is a fault.
"""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import hostile_seeds as seeds
from benchmarks.hostile_formats import (
    mutate_chunks,
    mutate_json,
    mutate_members,
    mutate_npy,
    mutate_pickle,
    mutate_zip_fields,
)
from benchmarks.hostile_mutators import MUTATORS, NAMES, Mutator, mutate_lines
from benchmarks.hostile_seeds import CLIP, FRAMES, SENTENCE, SUBJECT, V
from common.errors import UserError

Attempt = Callable[[Path], object]
OF_NPZ = (mutate_members(*MUTATORS, mutate_npy), mutate_members(mutate_npy), mutate_zip_fields)
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".mp3", ".aiff", ".au", ".caf", ".w64", ".rf64", ".m4a", ".mp4",
    ".mkv", ".flv", ".raw", ".xyz", ".bin", ".m3u8", ".mpd",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A loader and the files to try it with.

    place: where a mutant is written, relative to the folder that `prepare` gets; prepare: makes
    what the loader needs beside it, and returns the attempt. share: number of mutants relative to
    those of other targets. takes: suffixes of the files of a folder (`--files`) to try it with;
    they keep their names where `keeps_names`, else they are copied to `place`.
    """

    name: str
    place: str
    seeds: Callable[[], list[bytes]]
    prepare: Callable[[Path], Attempt]
    mutators: tuple[Mutator, ...] = ()
    share: float = 1.0
    takes: tuple[str, ...] = ()
    keeps_names: bool = True


def require(holds: bool, what: str) -> None:
    """Raise `ValueError` where a loader accepted a file and `what` does not hold."""
    if not holds:
        raise ValueError(f"accepted, but {what} does not hold")


def templates(folder: Path) -> Attempt:
    """Neutral faces: `load_templates`."""
    from files.meshes import load_templates

    def attempt(path: Path) -> None:
        for name, mesh in load_templates(path).items():
            require(isinstance(name, str), "name is text")
            require(mesh.dtype == np.float32 and mesh.ndim == 2 and mesh.shape[1] == 3, "(V, 3)")
            require(bool(np.isfinite(mesh).all()), "finite")

    return attempt


def region(folder: Path) -> Attempt:
    """Vertex indices: `load_region`, with the key of a file that holds several."""
    from files.meshes import load_region

    def attempt(path: Path) -> None:
        indices = load_region(path, V, key="lips")
        require(indices.dtype == np.int64 and indices.ndim == 1 and len(indices) > 0, "(n,) int64")
        require(indices.min() >= 0 and indices.max() < V, "index of a vertex")

    return attempt


def mesh(folder: Path) -> Attempt:
    """.obj and .ply: `load_mesh`, and the triangles alone."""
    from files.meshes import load_faces, load_mesh

    def attempt(path: Path) -> None:
        vertices, faces = load_mesh(path)
        require(vertices.dtype == np.float32 and vertices.shape[1:] == (3,), "(V, 3)")
        require(bool(np.isfinite(vertices).all()), "finite")
        require(faces.shape[1:] == (3,) and bool((faces < len(vertices)).all()), "(F, 3) below V")
        load_faces(path)

    return attempt


def faces(folder: Path) -> Attempt:
    """The triangles of an .npz: `load_faces`."""
    from files.meshes import load_faces

    def attempt(path: Path) -> None:
        triangles = load_faces(path)
        require(triangles.dtype == np.int32 and triangles.shape[1:] == (3,), "(F, 3) int32")

    return attempt


def array(folder: Path) -> Attempt:
    """An .npy: `load_npy`, whole and mapped, and `load_vertices`."""
    from evaluation.predictions import load_vertices
    from files.arrays import load_npy

    def attempt(path: Path) -> None:
        stored = load_npy(path)
        require(stored.dtype.kind in "biuf" and stored.ndim > 0, "an array of numbers")
        np.asarray(load_npy(path, mapped=True)).sum()
        require(load_vertices(path).shape[2] == 3, "(T, V, 3)")

    return attempt


def head(folder: Path) -> Attempt:
    """A head like synthetic/head.npz: `load_head`."""
    from synthetic.head import load_head

    return lambda path: load_head(path)


def predictions(folder: Path) -> Attempt:
    """A folder of predicted vertices: `python metrics.py`, with regions and templates."""
    from evaluation.score_folders import main

    (folder / "truth").mkdir()
    (folder / "truth" / f"{CLIP}.npy").write_bytes(seeds.motion_npys()[0])
    (folder / "lips.txt").write_text("2 3 5")
    (folder / "templates.npz").write_bytes(seeds.template_npzs()[0])
    flags = ["--pred", str(folder / "pred"), "--truth", str(folder / "truth"), "--json"]
    flags += ["--regions", f"lips={folder}/lips.txt", f"upper={folder}/lips.txt"]
    flags += ["--templates", str(folder / "templates.npz")]
    return lambda path: main(flags)


class Vocaset:
    """A raw download of VOCASET with one clip in `folder`/raw, prepared into `folder`/out."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.raw, self.out = folder, folder / "raw", folder / "out"
        self.raw.mkdir(exist_ok=True)
        self.write(SUBJECT, SENTENCE)

    def write(self, subject: str, sentence: str) -> None:
        """Write the four raw files with these names."""
        frames = {number: number for number in range(FRAMES)}
        sound = {"audio": (seeds.TONE[:400] * 9999).astype(np.int16), "sample_rate": 4_000}
        for name, content in (
            ("subj_seq_to_idx.pkl", {subject: {sentence: frames}}),
            ("raw_audio_fixed.pkl", {subject: {sentence: sound}}),
            ("templates.pkl", {subject: seeds.CUBE}),
        ):
            (self.raw / name).write_bytes(seeds.pickles(content)[2])
        (self.raw / "data_verts.npy").write_bytes(seeds.raw_meshes()[0])

    def process(self, path: Path) -> None:
        """Prepare the clips; check that no file was written outside the folder of the result."""
        from vocaset.process_voca_data import process

        try:
            process(self.raw, self.out)
            kinds = {"wav", "vertices_npy", "templates.pkl"}
            require(kinds <= set(os.listdir(self.out)), "three results")
        finally:
            shutil.rmtree(self.out, ignore_errors=True)
            strays = set(os.listdir(self.folder)) - {"raw"}
            for stray in strays:
                shutil.rmtree(self.folder / stray, ignore_errors=True)
        require(not strays, "no file outside --out")


def vocaset(folder: Path) -> Attempt:
    """A raw download: `vocaset.process_voca_data.process`."""
    return Vocaset(folder).process


def vocaset_names(folder: Path) -> Attempt:
    """A raw download whose subject, then whose sentence has the name in the file."""
    download = Vocaset(folder)

    def attempt(path: Path) -> None:
        name = path.read_bytes().decode("utf-8", "surrogateescape")
        refused = []
        for names in ((name, SENTENCE), (SUBJECT, name)):
            try:
                download.write(*names)
                download.process(path)
            except UserError as error:
                refused.append(error)
        path.unlink()
        if refused:
            raise refused[0]

    return attempt


class OwnFolder:
    """A folder of own data with four clips."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "own"
        for part in ("wav", "vertices_npy"):
            (self.folder / part).mkdir(parents=True)
        for number in (1, 2, 3, 4):
            (self.folder / f"wav/a_{number}.wav").write_bytes(seeds.wavs()[0])
            (self.folder / f"vertices_npy/a_{number}.npy").write_bytes(seeds.motion_npys()[0])
        (self.folder / "templates.npz").write_bytes(seeds.template_npzs()[0])
        for part in ("lips", "upper"):
            (self.folder / f"{part}.txt").write_text("2 3 5")

    def read(self, path: Path) -> None:
        """Read the folder and one clip of each split."""
        from data_loader import MeshSpeechDataset
        from dataset.own_folder import read_folder
        from dataset.prepared import locate

        spec = locate(read_folder(self.folder)[0].dataset)[0]
        for split in ("train", "val"):
            item = MeshSpeechDataset(spec, split)[0]
            require(item["vertices"].shape[1:] == (V, 3), "(T, V, 3)")
            require(bool(np.isfinite(item["audio"]).all()), "finite audio")


def own_folder(folder: Path) -> Attempt:
    """A folder of own data: `read_folder`, `locate` and the clips."""
    return OwnFolder(folder).read


def own_names(folder: Path) -> Attempt:
    """A folder of own data with a clip of the name in the file, if the disk has such names."""
    own = OwnFolder(folder)

    def attempt(path: Path) -> None:
        name = "a_" + os.fsdecode(re.sub(rb"[/\0]", b"_", path.read_bytes()))[:200]
        files = [own.folder / f"wav/{name}.wav", own.folder / f"vertices_npy/{name}.npy"]
        contents = (seeds.wavs()[0], seeds.motion_npys()[0])
        try:
            for file, content in zip(files, contents, strict=True):
                file.write_bytes(content)
            own.read(path)
        except OSError as error:
            raise UserError("not a name for this disk") from error
        finally:
            for file in files:
                with suppress(OSError):  # it could not be written
                    file.unlink()

    return attempt


def frames(folder: Path) -> Attempt:
    """Frames of B3D(AC)^2 in an archive or alone: `read_frames`, `parse_vl`."""
    from BIWI.frames import in_order, parse_vl, read_frames

    def attempt(path: Path) -> None:
        if path.suffix == ".vl":
            require(bool(np.isfinite(parse_vl(path.read_bytes(), path.name)).all()), "finite")
        elif found := list(read_frames(path, V)):
            in_order(found, path)

    return attempt


def audio(folder: Path) -> Attempt:
    """A recording: `read_audio`."""
    from speech.audio import read_audio

    def attempt(path: Path) -> None:
        samples = read_audio(path)
        require(samples.dtype == np.float32 and samples.ndim == 1, "(S,) float32")
        require(bool(np.isfinite(samples).all()), "finite")

    return attempt


def _npy(name: str, make: Callable[[], list[bytes]], place: str, prepare: Callable) -> Target:
    return Target(name, place, make, prepare, (mutate_npy,), 0.3, (".npy",), keeps_names=False)


def _sounds() -> list[Target]:
    """A target for each format of audio. Whatever libsndfile refuses goes to ffmpeg: 50 ms."""
    kinds: list[tuple[str, Callable[[], list[bytes]], float]] = [
        ("flac", seeds.sounds("FLAC"), 2), ("ogg", seeds.sounds("OGG"), 0.06),
        ("mp3", seeds.sounds("MP3"), 0.08), ("aiff", seeds.sounds("AIFF"), 0.06),
        ("au", seeds.sounds("AU"), 0.3), ("caf", seeds.sounds("CAF"), 0.03),
        ("w64", seeds.sounds("W64"), 0.04), ("rf64", seeds.sounds("RF64"), 0.04),
        ("m4a", seeds.encoded(suffix=".m4a"), 0.01), ("mkv", seeds.encoded(suffix=".mkv"), 0.01),
        ("flv", seeds.encoded("-ar", "22050", suffix=".flv"), 0.01),
    ]  # fmt: skip
    wav = Target("audio wav", "x.wav", seeds.wavs, audio, (mutate_chunks,), 0.3, AUDIO_SUFFIXES)
    return [wav] + [
        Target(f"audio {kind}", f"x.{kind}", make, audio, share=share)
        for kind, make, share in kinds
    ]


PICKLE, TEXT = (mutate_pickle,), (mutate_lines,)
DATA_TARGETS: Sequence[Target] = (
    Target("templates pickle", "x.pkl", seeds.template_pickles, templates, PICKLE, 6, (".pkl",)),
    Target("region pickle", "x.pkl", seeds.region_pickles, region, PICKLE, 6, (".pkl",)),
    Target("index pickle", "raw/subj_seq_to_idx.pkl", seeds.index_pickles, vocaset, PICKLE, 3,
           (".pkl",), keeps_names=False),
    Target("streamed pickle", "raw/raw_audio_fixed.pkl", seeds.audio_pickles, vocaset, PICKLE, 3,
           (".pkl",), keeps_names=False),
    _npy("raw meshes", seeds.raw_meshes, "raw/data_verts.npy", vocaset),
    Target("npy", "x.npy", seeds.motion_npys, array, (mutate_npy,), 6, (".npy",)),
    Target("region npy", "x.npy", seeds.region_npys, region, (mutate_npy,), 1, (".npy",)),
    _npy("prediction", seeds.motion_npys, f"pred/{CLIP}.npy", predictions),
    _npy("own clip", seeds.motion_npys, "own/vertices_npy/a_1.npy", own_folder),
    Target("templates npz", "x.npz", seeds.template_npzs, templates, OF_NPZ, 2, (".npz",)),
    Target("faces npz", "x.npz", seeds.template_npzs, faces, OF_NPZ, 1, (".npz",)),
    Target("region npz", "x.npz", seeds.region_npzs, region, OF_NPZ, 1, (".npz",)),
    Target("region mat", "x.mat", seeds.mats, region, share=3, takes=(".mat",)),
    Target("region txt", "x.txt", seeds.region_texts, region, TEXT, 4, (".txt", ".csv")),
    Target("obj", "x.obj", seeds.objs, mesh, TEXT, 5, (".obj",)),
    Target("ply", "x.ply", seeds.plys, mesh, TEXT, 4, (".ply",)),
    Target("dataset.json", "own/dataset.json", seeds.own_settings, own_folder, (mutate_json,), 1,
           (".json",), keeps_names=False),
    Target("own clip wav", "own/wav/a_2.wav", seeds.wavs, own_folder, (mutate_chunks,), 0.04,
           (".wav",), keeps_names=False),
    Target("own names", "name", seeds.names, own_names,
           (lambda data, rng: rng.choice(NAMES).encode("utf-8", "surrogatepass"),), 0.05),
    Target("vocaset names", "raw/name", seeds.names, vocaset_names,
           (lambda data, rng: rng.choice(NAMES).encode("utf-8", "surrogatepass"),), 0.2),
    Target("biwi vl", "x.vl", seeds.vls, frames, share=3, takes=(".vl",)),
    Target("biwi archive", "x.tar", seeds.frame_archives, frames, share=1, takes=(".tar", ".tgz")),
    *_sounds(),
)  # fmt: skip

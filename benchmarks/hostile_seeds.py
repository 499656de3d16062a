"""Small valid files of every format that the project reads, built in memory; for `bench_hostile`.

Each function returns a list of the bytes of files. V is the number of vertices of all of them.
"""

import io
import json
import pickle
import struct
import tarfile
import tempfile
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

V, FRAMES, RATE = 7, 6, 16_000
CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)[:V] * 0.2
TRIANGLES = np.array([[0, 1, 2], [2, 3, 4], [4, 5, 6]], np.int32)
LIPS = [2, 3, 5]
TONE = (0.3 * np.sin(np.arange(1600) * 0.2)).astype(np.float32)
CLIP, SUBJECT, SENTENCE = "a_sentence01", "a", "sentence01"


def pickles(*contents: Any) -> list[bytes]:
    """Contents at the protocols of Python 2 and 3, the oldest and the newest."""
    return [pickle.dumps(content, protocol) for content in contents for protocol in (0, 2, 4, 5)]


def template_pickles() -> list[bytes]:
    """{subject: (V, 3)} as in VOCASET and BIWI."""
    return pickles({"a": CUBE, "b": CUBE * 1.1}, {"a": CUBE.astype(np.float64).ravel()})


def region_pickles() -> list[bytes]:
    """Masks as in FLAME_masks.pkl, lists, arrays."""
    masks = {"lips": np.array(LIPS), "face": np.arange(V)}
    return pickles(masks, LIPS, np.array(LIPS), {"lips": LIPS})


def index_pickles() -> list[bytes]:
    """VOCASET's index: subject -> sentence -> frame -> row."""
    frames = {number: number for number in range(FRAMES)}
    return pickles({SUBJECT: {SENTENCE: frames}}, {SUBJECT: {SENTENCE: {0: 0, 1: 2, 3: 3}}})


def audio_pickles() -> list[bytes]:
    """VOCASET's audio: subject -> sentence -> audio, sample_rate."""
    sound = (TONE[:400] * 30_000).astype(np.int16)
    contents = [
        {SUBJECT: {SENTENCE: {"audio": audio, "sample_rate": 4_000}}}
        for audio in (sound, np.stack([sound, sound], 1), TONE[:400])
    ]
    return pickles(*contents)


def raw_meshes() -> list[bytes]:
    """VOCASET's meshes of all clips, (N, V, 3)."""
    return npys(np.tile(CUBE, (FRAMES, 1, 1)))


def npys(*arrays: NDArray) -> list[bytes]:
    """Arrays as .npy files."""
    files = []
    for array in arrays:
        file = io.BytesIO()
        np.save(file, array)
        files.append(file.getvalue())
    return files


def motion_npys() -> list[bytes]:
    """Vertices of a clip, (T, V*3) and (T, V, 3), float32, float64 and in Fortran's order."""
    motion = CUBE + 0.01 * np.sin(np.arange(FRAMES))[:, None, None].astype(np.float32)
    flat = motion.reshape(FRAMES, -1)
    return npys(motion, flat, flat.astype(np.float64), np.asfortranarray(flat))


def region_npys() -> list[bytes]:
    """Vertex indices and a mask."""
    return npys(np.array(LIPS), np.isin(np.arange(V), LIPS))


def npzs(*contents: dict[str, NDArray]) -> list[bytes]:
    """Archives of arrays, stored and compressed."""
    files = []
    for content in contents:
        for save in (np.savez, np.savez_compressed):
            file = io.BytesIO()
            save(file, **content)
            files.append(file.getvalue())
    return files


def template_npzs() -> list[bytes]:
    """One array for each subject, and the layout of synthetic/head.npz."""
    mean = {"subjects": np.array(["a", "b"]), "template_mean": CUBE,
            "template_offsets": np.zeros((2, V, 3), np.float16), "faces": TRIANGLES}  # fmt: skip
    return npzs({"a": CUBE, "b": CUBE, "faces": TRIANGLES}, mean)


def region_npzs() -> list[bytes]:
    """Two regions in one archive."""
    return npzs({"lips": np.array(LIPS), "upper": np.array([0, 1])})


def mats() -> list[bytes]:
    """DiffSpeaker's indices, which count from 1, in MATLAB's format 5, plain and compressed."""
    from scipy.io import savemat

    files = []
    for compressed in (False, True):
        for indices in (np.array([LIPS]) + 1, np.array(LIPS, np.uint16)[:, None] + 1):
            file = io.BytesIO()
            savemat(file, {"lips": indices}, do_compression=compressed)
            files.append(file.getvalue())
    return files


def region_texts() -> list[bytes]:
    """Indices in lines, with commas, with a byte order mark."""
    return [b"2\n3\n5\n", b"2, 3, 5", "\ufeff2 3 5".encode(), "2 3 5".encode("utf-16")]


def objs() -> list[bytes]:
    """A mesh with texture coordinates and comments, and a point cloud."""
    points = "".join(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in CUBE)
    faces = "".join("f " + " ".join(f"{i + 1}/{i + 1}/1" for i in row) + "\n" for row in TRIANGLES)
    quad = "f 1 2 \\\n4 3 # a quad\nf -1 -2 -3\n"
    return [(points + "vt 0 0\nvn 0 0 1\n" + faces + quad).encode(), points.encode()]


def plys() -> list[bytes]:
    """Meshes in text and in both binary orders, with colours, and a point cloud."""
    files = []
    for kind, order in (("ascii", ""), ("binary_little_endian", "<"), ("binary_big_endian", ">")):
        for n_faces in (len(TRIANGLES), 0):
            header = f"ply\nformat {kind} 1.0\ncomment made here\nelement vertex {V}\n"
            header += "".join(f"property float {axis}\n" for axis in "xyz")
            header += "property uchar red\n"
            header += f"element face {n_faces}\nproperty list uchar int vertex_indices\n"
            rows = [(*point, 9) for point in CUBE.tolist()]
            corners = [(3, *row) for row in TRIANGLES[:n_faces].tolist()]
            if order:
                body = b"".join(struct.pack(f"{order}fffB", *row) for row in rows)
                body += b"".join(struct.pack(f"{order}Biii", *row) for row in corners)
            else:
                body = "".join(" ".join(map(str, row)) + "\n" for row in rows + corners).encode()
            files.append(f"{header}end_header\n".encode() + body)
    return files


def own_settings() -> list[bytes]:
    """dataset.json with every key."""
    settings = {
        "fps": 30, "source_fps": 60, "metres_per_unit": 1.0, "base": "synthetic",
        "splits": {"train": ["a_1", "a_2"], "val": ["a_3"], "test": ["a_4"]},
        "regions": {"lips": "lips.txt", "upper": "upper.txt"}, "templates": "templates.npz",
        "topology": "templates.npz", "model": {"d_model": 24, "n_heads": 2, "layout": "MEA"},
        "train": {"epochs": 3, "learning_rate": 1e-3}, "wav2vec2": "synthetic/encoder",
    }  # fmt: skip
    return [json.dumps(settings).encode(), b'{"fps": 30}', b"{}"]


def vls() -> list[bytes]:
    """Frames of B3D(AC)^2 with a number of vertices of 4, 8 and no bytes."""
    body = (CUBE * 500).astype("<f4").tobytes()
    return [V.to_bytes(size, "little") + body if size else body for size in (0, 4, 8)]


def frame_archives() -> list[bytes]:
    """Frames in a .tar and a .tgz."""
    files = []
    for mode in ("w", "w:gz"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as archive:
            for number in (1, 2):
                member = tarfile.TarInfo(f"e01/frame_{number:03d}.vl")
                content = vls()[1]
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        files.append(file.getvalue())
    return files


def wavs() -> list[bytes]:
    """Wav of several sample formats, rates and channels, also with more chunks."""
    import soundfile

    files = []
    for subtype in ("PCM_16", "PCM_24", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM"):
        file = io.BytesIO()
        soundfile.write(file, TONE, RATE, subtype=subtype, format="WAV")
        files.append(file.getvalue())
    file = io.BytesIO()
    with wave.open(file, "wb") as stereo:
        stereo.setparams((2, 2, 22_050, 0, "NONE", ""))
        stereo.writeframes(np.repeat((TONE * 30_000).astype("<i2"), 2).tobytes())
    listed = b"LIST" + (12).to_bytes(4, "little") + b"INFOISFT\0\0\0\0"
    return [*files, file.getvalue(), file.getvalue()[:36] + listed + file.getvalue()[36:]]


def sounds(kind: str, subtype: str | None = None, rate: int = RATE) -> Callable[[], list[bytes]]:
    """A tone in a format of libsndfile."""

    def make() -> list[bytes]:
        import soundfile

        file = io.BytesIO()
        soundfile.write(file, TONE, rate, format=kind, subtype=subtype)
        return [file.getvalue()]

    return make


def encoded(*flags: str, suffix: str) -> Callable[[], list[bytes]]:
    """A tone encoded by ffmpeg."""

    def make() -> list[bytes]:
        import subprocess

        import imageio_ffmpeg

        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "tone.wav", Path(folder) / f"tone{suffix}"
            source.write_bytes(wavs()[0])
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(source), *flags]
            subprocess.run([*command, str(target)], check=True, stdin=subprocess.DEVNULL)
            return [target.read_bytes()]

    return make


def names() -> list[bytes]:
    """Names of subjects and clips."""
    texts = ("FaceTalk_170725_00137_TA", "a", "e\u0301", "\u53e3", "a b", "a.b")
    return [text.encode() for text in texts]


def zipped(content: dict[str, bytes]) -> bytes:
    """A zip archive of stored members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in content.items():
            archive.writestr(name, member)
    return file.getvalue()

"""Size and accuracy of exported files: `python -m benchmarks.bench_export`.

Predicts ten seconds of the recordings in demo/wav, writes them as .glb (both kinds of morph
targets), as .obj sequence and as .npz, and reads the .glb by other programs: the reader of
`read_glb`, and where they are given Khronos' validator and three.js (npm) and Blender (bpy). A
figure whose program is absent is null, and a line says so. The last line is JSON.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.bench_demo import run_demo
from benchmarks.jaw_motion import jaw_motion
from benchmarks.read_glb import Glb
from common.errors import Parser, UserError, run_cli
from config import SYNTHETIC as SPEC
from export.clip import SYNTHETIC, Clip
from export.curves import Curves, curves_of, units_of
from export.glb import write_arkit_glb, write_glb
from export.sequences import write_npz, write_obj
from files.meshes import load_mesh
from metrics import jitter
from rendering.face import appearance
from synthetic.head import load_head

READERS = Path(__file__).parent / "readers"
RECORDINGS = (0, 1, 2)  # of the .flac files of demo/wav: different speech, 14.3 s together
CLIP_S, SUBJECT = 10.0, "ada"
OTHER, OTHER_SIZE = "ben", 1.05  # the face on which transferred units are tried
N_TIMES = 10  # instants at which other programs are asked for vertices
SCENE_FPS = 24  # of Blender's scene; the motion has 30
PICTURE_TIMES_S = (0.0, 1.5, 2.6)
DRAW_S = 120.0  # seconds after which chromium is ended


def predicted_clip(folder: Path) -> Clip:
    """The prediction of `CLIP_S` seconds of recorded speech."""
    parts = [soundfile.read(sorted((SPEC.path("demo/wav")).glob("*.flac"))[i]) for i in RECORDINGS]
    rate = parts[0][1]
    sound = np.concatenate([audio for audio, _ in parts])[: round(CLIP_S * rate)]
    soundfile.write(folder / "speech.wav", sound, rate)
    run_demo(folder / "speech.wav", folder, ("--no_video", "--subject", SUBJECT))
    head = load_head()
    return Clip(
        vertices=np.load(folder / "speech.npy", mmap_mode="r"),
        template=head.templates[SUBJECT],
        faces=head.faces,
        fps=Fraction(SPEC.fps),
        metres_per_unit=1.0,
        name="speech",
        colors=appearance(SPEC, SUBJECT)["colors"],
        topology=SYNTHETIC,
        audio=folder / "speech.wav",
    )


def largest_mm(vertices: NDArray, clip: Clip, frames: Sequence[int]) -> float:
    """The largest distance of any of the vertices (N, V, 3) from those of a clip's frames."""
    return 1e3 * float(np.linalg.norm(vertices - clip.vertices[frames], axis=2).max())


def by_node(modules: Path, script: str, *arguments: object) -> dict[str, Any] | None:
    """The JSON that a script of `READERS` prints; None where node or the packages are absent."""
    if shutil.which("node") is None or not (modules / "three").is_dir():
        print(f"{script}: not run: no node, or no packages in {modules}")
        return None
    return printed("node", READERS / script, modules, *arguments)


def printed(*command: object) -> dict[str, Any]:
    """The JSON of the last line that a command prints; raises `UserError` if it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{command[1]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def by_blender(python: Path | None, path: Path, clip: Clip, frames: Sequence[int]) -> float | None:
    """The largest error in mm of Blender's shape keys; raises `UserError` if it has lost keys."""
    if python is None:
        print("blender_morph.py: not run: no --blender")
        return None
    out = path.with_name("blender.npy")
    times = [frame / SPEC.fps for frame in frames]
    report = printed(python, READERS / "blender_morph.py", path, SCENE_FPS, out, *times)
    kept = set(report["keys"])
    print(f"Blender {report['version']}: {kept} keys a curve in a scene of {SCENE_FPS} fps")
    if kept != {len(clip.vertices)}:
        raise UserError(f"Blender: {kept} keys, expected {len(clip.vertices)}")
    return largest_mm(np.load(out), clip, frames)


def draw_page(modules: Path, glb: Path, picture: Path) -> None:
    """Let headless chromium draw the animation with three.js, and save what it shows."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise UserError("--picture: no chromium on the path; apt-get install chromium")
    folder = glb.parent / "page"
    folder.mkdir()
    shutil.copy(READERS / "three_page.html", folder / "index.html")
    shutil.copy(glb, folder / "head.glb")
    (folder / "modules").symlink_to(modules, target_is_directory=True)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        times = ",".join(map(str, PICTURE_TIMES_S))
        command = [
            chromium, "--headless=new", "--no-sandbox", "--use-gl=angle",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--window-size=1440,560",
            "--virtual-time-budget=20000", f"--screenshot={picture.absolute()}",
            f"http://127.0.0.1:{server.server_port}/index.html?times={times}",
        ]  # fmt: skip
        subprocess.run(command, capture_output=True, check=True, timeout=DRAW_S)
        server.shutdown()


def on_another_face(curves: Curves, clip: Clip) -> Clip:
    """The motion of `curves` on the skin of another subject, larger, its vertices shuffled."""
    head = load_head()
    order = np.random.default_rng(0).permutation(head.parts["skin"])
    number = np.full(len(head.colors), -1)
    number[order] = np.arange(len(order))
    faces = number[head.faces]
    template = OTHER_SIZE * head.templates[OTHER][order]
    units = OTHER_SIZE * np.stack([head.units[name][order] for name in curves.names])
    return Clip(
        vertices=(template + np.tensordot(curves.values, units, 1)).astype(np.float32),
        template=template,
        faces=faces[(faces >= 0).all(axis=1)],
        fps=clip.fps,
        metres_per_unit=1.0,
        name=clip.name,
        topology="shuffled skin",
    )


def jaw_clip(file: Path, curves: Curves, clip: Clip) -> Clip:
    """A face of a file whose jaw opens as in a clip, by `jaw_motion` instead of our units."""
    vertices, faces = load_mesh(file)
    opening = curves.values[:, curves.names.index("jawOpen")]
    return Clip(
        vertices=jaw_motion(vertices.astype(np.float64), faces, opening),
        template=vertices,
        faces=faces,
        fps=clip.fps,
        metres_per_unit=1.0,
        name=clip.name,
        topology=file.stem,
    )


def jitter_ratio(curves: Curves, clip: Clip) -> float:
    """Jitter of the mesh of the curves over that of the clip."""
    names, basis_mm = units_of(clip)
    kept = [curves.names.index(name) for name in names]
    mesh = clip.template + np.tensordot(curves.values[:, kept], 1e-3 * basis_mm, 1)
    return round(jitter(mesh, SPEC.fps) / jitter(clip.vertices, SPEC.fps), 3)


def round_trip(curves: Curves, clip: Clip) -> float:
    """The largest change of a curve after curves -> head -> curves."""
    mesh = clip.template + np.tensordot(curves.values, 1e-3 * units_of(clip)[1], 1)
    again = curves_of(replace(clip, vertices=mesh.astype(np.float32)))
    return round(float(np.abs(again.values - curves.values).max()), 6)


def curve_figures(clip: Clip, flame: Path | None) -> dict[str, float | None]:
    """How far the mesh of the curves is from the clip (rms), and how its jitter compares.

    "transferred" is the fit on another topology: its error, the motion there, and the rms change of
    the curves that both fits have. "flame" is the fit to a jaw that turns (`jaw_motion`).
    """
    curves = curves_of(clip)
    figures = {
        "arkit_fit_mm_synthetic": round(curves.rms_mm, 4),
        "arkit_fit_mm_flame": None,
        "curve_jitter_ratio": jitter_ratio(curves, clip),
        "curve_round_trip": round_trip(curves, clip),
    }
    shuffled = on_another_face(curves, clip)
    other = curves_of(shuffled)
    common = [name for name in other.names if name in curves.names]
    apart = [
        other.values[:, other.names.index(n)] - curves.values[:, curves.names.index(n)]
        for n in common
    ]
    figures |= {
        "arkit_fit_mm_transferred": round(other.rms_mm, 4),
        "motion_mm_transferred": round(other.motion_mm, 3),
        "curve_change_transferred": round(float(np.sqrt(np.mean(np.square(apart)))), 4),
        "curve_jitter_ratio_transferred": jitter_ratio(other, shuffled),
    }
    if flame is None:
        print("arkit_fit_mm_flame: not measured: no --flame")
        return figures
    jaw = jaw_clip(flame, curves, clip)
    of_jaw = curves_of(jaw)
    return figures | {
        "arkit_fit_mm_flame": round(of_jaw.rms_mm, 4),
        "motion_mm_flame": round(of_jaw.motion_mm, 3),
        "curve_jitter_ratio_flame": jitter_ratio(of_jaw, jaw),
    }


def parse(argv: Sequence[str] | None) -> Any:
    """The flags as given."""
    parser = Parser(description="Size and accuracy of exported files.")
    add = parser.add_argument
    add(
        "--node_modules",
        type=Path,
        default=Path(os.environ.get("NODE_PATH", "node_modules")),
        metavar="FOLDER",
        help="with the npm packages three and gltf-validator; default: NODE_PATH",
    )
    add("--blender", type=Path, metavar="PYTHON", help="a Python that has the package bpy")
    add("--flame", type=Path, metavar="FILE", help="a neutral face of FLAME, .ply or .obj")
    add("--picture", type=Path, metavar="FILE.png", help="what headless chromium shows of the .glb")
    return parser.parse_args(argv)  # fmt: skip


def measure(args: Any, folder: Path) -> dict[str, Any]:
    """All figures; files are written into `folder`."""
    modules, clip = args.node_modules.absolute(), predicted_clip(folder)
    frames = np.linspace(0, len(clip.vertices) - 1, N_TIMES).astype(int).tolist()
    times = [frame / SPEC.fps for frame in frames]
    start = time.perf_counter()
    (path,) = write_glb(clip, folder)
    print(f"glb: {path.stat().st_size / 1e6:.2f} MB in {time.perf_counter() - start:.1f} s")
    glb = Glb(path)
    errors = {"own reader": largest_mm(np.stack([glb.vertices_at(t) for t in times]), clip, frames)}
    report = by_node(modules, "gltf_validator.mjs", path)
    read = by_node(modules, "three_morph.mjs", path, *times)
    if read is not None:
        errors[f"three.js r{read['version']}"] = largest_mm(np.array(read["frames"]), clip, frames)
    blender_mm = by_blender(args.blender, path, clip, frames)
    if blender_mm is not None:
        errors["Blender"] = blender_mm
    if args.picture is not None:
        draw_page(modules, path, args.picture)
    print(f"{len(glb.primitive['targets'])} targets; largest error in mm: {errors}")
    size = path.stat().st_size
    for write in (write_npz, write_arkit_glb):  # the latter replaces the file above
        (other,) = write(clip, folder)
        print(f"{write.__name__}: {other.stat().st_size / 1e6:.2f} MB")
    start = time.perf_counter()
    write_obj(clip, folder)
    obj_per_s = len(clip.vertices) / (time.perf_counter() - start)
    return {
        "glb_mb_10s": round(size / 1e6, 3),
        "glb_max_error_mm": round(max(errors.values()), 4),
        "validator_errors": None if report is None else report["numErrors"],
        "obj_per_s": round(obj_per_s, 1),
        **curve_figures(clip, args.flame),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(args, Path(folder))))


if __name__ == "__main__":
    sys.exit(run_cli(main))

"""Own data: what is inferred from a folder, the messages for one that does not fit, and the
worked example of the documentation as a user types it."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import demo
import main
from common.errors import run_cli
from config import RECIPES
from data_loader import MeshSpeechDataset
from dataset.own_folder import lines_of, read_folder
from dataset.own_inference import splits_of, unit_of
from synthetic import example_data

V = 40
CLIPS = [f"{subject}_{number}" for subject in ("anna", "carl") for number in range(1, 11)]


def face(seed: int, units_per_metre: float) -> np.ndarray:
    """A head 0.2 m high, its nose at the front; the next seven vertices are lips, 40 mm below."""
    rng = np.random.default_rng(seed)
    points = rng.uniform((-0.08, -0.1, -0.1), (0.08, 0.1, 0.0), (V, 3))
    points[0] = (0, 0, 0.09)
    points[1:8] = (0, -0.04, 0.07) + rng.uniform(-0.01, 0.01, (7, 3))
    points[8:10] = (0, -0.1, 0), (0, 0.1, 0)
    return points * units_per_metre


def write_clip(root: Path, name: str, template: np.ndarray, fps: int, frames: int) -> None:
    moving = np.tile(template, (frames, 1, 1))
    moving[:, 1:5, 1] -= 0.1 * np.ptp(template[:8, 1]) * np.sin(np.arange(frames))[:, None]
    np.save(root / "vertices_npy" / f"{name}.npy", moving.astype(np.float32))
    sound = np.random.default_rng(frames).normal(0, 0.1, 16_000 * frames // fps)
    soundfile.write(root / "wav" / f"{name}.wav", sound, 16_000)


def write_folder(root: Path, units: float = 1000.0, fps: int = 60) -> Path:
    """Two subjects, ten clips of about a second each, in millimetres at 60 fps."""
    for kind in ("wav", "vertices_npy"):
        (root / kind).mkdir(parents=True)
    templates = {name: face(i, units) for i, name in enumerate(("anna", "carl"))}
    (root / "templates.pkl").write_bytes(pickle.dumps(templates))
    for i, name in enumerate(CLIPS):
        write_clip(root, name, templates[name[:4]], fps, fps + i)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "mine")


def write_json(folder: Path, **content: object) -> None:
    (folder / "dataset.json").write_text(json.dumps(content))


def test_everything_is_inferred_and_printed(folder: Path) -> None:
    recipe, facts = read_folder(folder)
    lines = "\n".join(lines_of(facts))
    spec, model = recipe.dataset, recipe.model
    assert (spec.name, spec.n_vertices, spec.metres_per_unit) == ("mine", V, 0.001)
    assert (spec.source_fps, spec.fps, model.fps, model.fold) == (60, 30, 30, 1)
    assert model.n_vertices == V and model.units_per_metre == pytest.approx(1000)
    assert (model.d_model, recipe.wav2vec2) == (512, RECIPES["vocaset"].wav2vec2)
    sizes = {name: len(MeshSpeechDataset(spec, name)) for name in spec.splits}
    assert sizes == {"train": 16, "val": 2, "test": 2}
    assert spec.splits["test"].clips == ("anna_9", "carl_9")  # _10 sorts after _1
    for text in (
        "20: 16 train, 2 val, 2 test (by sentence", "2: anna, carl", f"{V}, in millimetres",
        "60 a second on disk, 30 for", "7 vertices in a box about the nose", "none: videos need",
        "vocaset (the paper's; --base synthetic",
    ):  # fmt: skip
        assert text in lines
    columns = {
        line.index(line.split(maxsplit=2)[1 if "face" not in line else 2])
        for line in lines.splitlines()
        if line.split()[0] in ("clips", "frames", "lips")
    }
    assert len(columns) == 1  # aligned
    assert "warning" not in lines


@pytest.mark.parametrize(
    ("units", "fps", "metres", "rates"),
    [(1, 25, 1, (25, 25)), (100, 30, 0.01, (30, 30)), (1000, 50, 0.001, (25, 50)),
     (1000, 120, 0.001, (30, 120)), (4, 24, 0.3125, (24, 24))],
)  # fmt: skip
def test_unit_and_frame_rate_by_size_and_length(
    units: float, fps: int, metres: float, rates: tuple[int, int], tmp_path: Path
) -> None:
    recipe, facts = read_folder(write_folder(tmp_path / "x", units, fps))
    lines = "\n".join(lines_of(facts))
    spec = recipe.dataset
    assert spec.metres_per_unit == pytest.approx(metres)  # 0.25 m where no unit fits: 0.25 / 0.8
    assert (spec.fps, spec.source_fps) == rates
    assert ("in an unknown unit" in lines) == (units == 4)


def test_the_unit_is_inferred_from_the_size_of_the_head() -> None:
    for size, unit in ((0.33, 1.0), (0.2, 1.0), (22.0, 0.01), (255.0, 0.001)):
        assert unit_of(np.array([[0, 0, 0], [0.1, size, 0]]), None)[0] == unit
    assert unit_of(np.ones((2, 3)) * [[0], [9]], 0.02)[0] == 0.02


def test_dataset_json_takes_precedence_over_inference(folder: Path) -> None:
    (folder / "mouth.txt").write_text("1 2 3")
    (folder / "mesh.obj").write_text("v 0 0 0\n" * V + "f 1 2 3\n")
    write_json(folder, fps=15, source_fps=60, metres_per_unit=0.0012, base="synthetic",
         topology="mesh.obj", regions={"lips": "mouth.txt"},
         splits={"train": ["anna"], "val": ["carl_1*"], "test_far": ["carl_2", "carl_3"]},
         model={"d_model": 64, "layout": "C"}, train={"epochs": 2},
         wav2vec2="elsewhere/encoder")  # fmt: skip
    recipe, facts = read_folder(folder)
    lines = "\n".join(lines_of(facts))
    spec = recipe.dataset
    assert (spec.fps, spec.source_fps, spec.metres_per_unit) == (15, 60, 0.0012)
    assert spec.topology.endswith("mesh.obj") and "3 vertices of mouth.txt" in lines
    assert spec.splits["val"].clips == ("carl_1", "carl_10")
    assert spec.splits["test_far"].clips == ("carl_2", "carl_3")
    assert (recipe.model.d_model, recipe.model.layout, recipe.model.fold) == (64, "MEAMEM", 3)
    assert (recipe.train.epochs, recipe.wav2vec2) == (2, "elsewhere/encoder")
    flags, _ = read_folder(folder, base="BIWI")  # the command line takes precedence
    assert flags.model.n_heads == RECIPES["BIWI"].model.n_heads


def test_one_template_serves_clips_of_any_name(folder: Path) -> None:
    (folder / "templates.pkl").unlink()
    lines = [f"v {x} {y} {z}" for x, y, z in face(0, 1000)]
    (folder / "template.obj").write_text("\n".join([*lines, "f 1 2 3"]))
    for name in CLIPS[10:]:
        (folder / "wav" / f"{name}.wav").unlink()
        (folder / "vertices_npy" / f"{name}.npy").unlink()
    for name in CLIPS[:10]:
        (folder / "wav" / f"{name}.wav").rename(folder / "wav" / f"take {name[5:]}.wav")
        (folder / "vertices_npy" / f"{name}.npy").rename(
            folder / "vertices_npy" / f"take {name[5:]}.npy"
        )
    recipe, facts = read_folder(folder)
    lines = "\n".join(lines_of(facts))
    assert recipe.dataset.topology.endswith("template.obj")  # its own triangles
    item = MeshSpeechDataset(recipe.dataset, "test")[0]
    assert (item["name"], item["subject"]) == ("take 9", "template")


def test_from_four_subjects_on_whole_subjects_are_held_out() -> None:
    def names(people: str, clips: int) -> dict[str, str]:
        return {f"{p}_{i}": p for p in people for i in range(clips)}

    splits, how = splits_of(names("abcd", 2), {})
    assert how == "by subject"
    assert {k: s.clips for k, s in splits.items()} == {
        "train": ("a_0", "a_1", "b_0", "b_1"), "val": ("c_0", "c_1"), "test": ("d_0", "d_1"),
    }  # fmt: skip
    twelve, _ = splits_of(names("abcdefghijkl", 1), {})
    assert [len(s.clips) for s in twelve.values()] == [8, 2, 2]  # as VOCASET's
    three, how = splits_of(names("abc", 1), {})
    assert [s.clips for s in three.values()] == [("a_0",), ("b_0",), ("c_0",)]
    assert how.startswith("by sentence")


def change(file: str, how: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "vertices_npy" / file
        np.save(path, how(np.load(path)))

    return apply


def templates(how: Callable[[dict], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = pickle.loads((folder / "templates.pkl").read_bytes())
        how(content)
        (folder / "templates.pkl").write_bytes(pickle.dumps(content))

    return apply


def json_of(**content: object) -> Callable[[Path], None]:
    return lambda folder: write_json(folder, **content)


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / "wav/anna_3.wav").unlink(), "anna_3.npy: no wav/anna_3.wav for it"),
    (
        lambda f: (f / "vertices_npy/anna_3.npy").rename(f / "vertices_npy/anna_03.npy"),
        "anna_3.wav: no vertices_npy/anna_3.npy for it; anna_03.npy has no partner either",
    ),
    (lambda f: [p.unlink() for p in (f / "wav").iterdir()], "wav/anna_1.wav for it (20 clips lack"),
    (
        lambda f: [p.unlink() for p in f.glob("*/*_*") if p.stem not in ("anna_1", "anna_2")],
        "mine: 2 clips, expected at least 3 (train, val and test need one each)",
    ),
    (lambda f: (f / "templates.pkl").unlink(), "mine: no neutral faces, expected templates.pkl"),
    (lambda f: (f / "wav").rename(f / "sound"), "mine: no folder wav/, expected wav/<clip>.wav"),
    (
        templates(lambda t: t.update(eve=t.pop("carl"))),
        "clip carl_1: the name begins with none",
    ),
    (templates(lambda t: t.update(carl=t["carl"] / 1000)), "use the same unit for all"),
    (change("carl_9.npy", lambda v: v / 1000), "carl_9.npy: the first frame is 0.2 across"),
    (
        change("carl_8.npy", lambda v: v[:, ::-1]),
        "carl_8.npy: the first frame differs",
    ),
    (change("carl_7.npy", lambda v: v + 900), "away from its template"),
    (change("carl_6.npy", lambda v: v[:, :9]), "carl_6.npy: shape (75, 9, 3)"),
    (change("carl_5.npy", lambda v: v[::2]), "carl_5.npy: 30.0 frames per second of its audio"),
    (change("carl_4.npy", lambda v: v[:0]), "clip carl_4: 0 frames in"),
    (lambda f: soundfile.write(f / "wav/carl_3.wav", np.zeros(0), 16_000), ", 0.00 s of sound in"),
    (lambda f: (f / "wav/carl_2.wav").write_bytes(b"RIFF"), "carl_2.wav: it is text"),
    (json_of(fsp=30), 'unknown key "fsp"; did you mean fps?'),
    (json_of(fps="30"), '"fps": expected frames a second that the network predicts, got "30"'),
    (json_of(fps=0), '"fps": expected more than 0, got 0'),
    (json_of(fps=500), '"fps": expected 1 to 240, got 500'),
    (json_of(source_fps="1e9"), '"source_fps": expected frames a second from 1 to 1000'),
    (json_of(metres_per_unit=10**400), '"metres_per_unit": expected at most 1000000000, got 1000'),
    (json_of(regions={"lips": 3}), "\"lips\": expected the name of a file, got '3'"),
    (json_of(templates="x" * 300), '"templates": expected the name of a file, got \'xxx'),
    (
        json_of(splits={"train": ["anna"], "val": ["carl"], "../x": ["carl"]}),
        "split '../x': expected a name of at most 50 letters",
    ),
    (json_of(max_drift_s=1), '"max_drift_s" needs "source_fps"'),
    (json_of(metres_per_unit=float("nan")), "not JSON: NaN is not a number of JSON"),
    (json_of(source_fps=30), "source_fps 30, but the clips have 60.0 frames"),
    (json_of(base="mine"), "base mine: no such recipe; config.py has synthetic, vocaset"),
    (json_of(model={"d_modle": 3}), "dataset.json model.d_modle: no such field; did you mean"),
    (json_of(regions={"nose": "x"}), 'no region "nose", expected lips, upper, inner_lips'),
    (json_of(regions={"lips": "x.txt"}), "x.txt: no such file, nor one of that name"),
    (json_of(splits={"train": ["eve"], "val": ["anna"]}), 'no clip or subject "eve"'),
    (json_of(splits={"train": ["a*"], "val": ["anna_1"]}), "clip anna_1 is in train and val"),
    (json_of(splits={"train": ["a*"], "test": ["carl"]}), 'splits have no "val"'),
    (lambda f: (f / "dataset.json").write_text("{fps: 3}"), "dataset.json: not JSON"),
]


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_a_folder_that_does_not_fit_is_reported_in_one_line_that_names_the_file(
    number: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = FAULTS[number]
    spoil(folder)
    out = folder.parent / "out"
    flags = ["--dataset", str(folder), "--mode", "train", "--wav2vec2", str(folder)]
    assert run_cli(main.main, [*flags, "--out", str(out), "--workers", "0"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and message in error[0]


def test_lips_that_do_not_move_are_a_warning(folder: Path) -> None:
    """Where y and z are exchanged, the box about the nose selects vertices that do not move."""
    (folder / "lips.txt").write_text("20 21 22")
    lines = "\n".join(lines_of(read_folder(folder)[1]))
    assert "3 vertices of lips.txt" in lines
    assert "warning: the lips (lips.txt) move less than the average vertex" in lines


def test_the_worked_example_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Make the folder, train for one short epoch, test, and animate with the new model."""
    monkeypatch.chdir(tmp_path)
    assert run_cli(example_data.main, ["my_head", "--clips", "6"]) == 0
    flags = ["--dataset", "my_head", "--base", "synthetic", "--workers", "0"]
    assert run_cli(main.main, [*flags, "--epochs", "1", "--steps_per_epoch", "2"]) == 0
    printed = capsys.readouterr().out
    assert "6: 2 train, 2 val, 2 test (by sentence" in printed
    assert "6045, in millimetres" in printed
    assert "| model |" in printed and "| motionless template |" in printed
    total = json.loads(Path("runs/my_head/results.json").read_text())["total"]
    assert total["clips"] == 2 and np.isfinite(total["lve"])
    recording = str(main.RECIPES["synthetic"].dataset.path("demo/wav/sense_and_sensibility.wav"))
    flags = ["--checkpoint", "runs/my_head/best.safetensors", "--wav_path", recording]
    assert run_cli(demo.main, [*flags, "--out", "out", "--no_video"]) == 0
    vertices = np.load("out/sense_and_sensibility.npy")
    assert vertices.shape[1:] == (6_045, 3)
    assert 200 < np.ptp(vertices[0], axis=0).max() < 300  # still in millimetres

"""Animated .glb files: their vertices, keys, weights, normals and colours; other readers."""

import dataclasses
import json
import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from benchmarks.read_glb import Glb
from common.errors import UserError
from export.clip import SYNTHETIC, Clip
from export.curves import unit_basis
from export.glb import key_times, save_mesh, vertex_normals, write_arkit_glb, write_glb
from export.gltf import Binary, index_type
from export.morph_targets import SAMPLE, principal_targets
from synthetic.head import load_head
from tests.clips import small_clip

READERS = Path(__file__).resolve().parents[1] / "benchmarks/readers"
NEAR = 1e-4  # metres


def farthest(vertices: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(vertices - expected, axis=-1).max())


def test_vertices_of_every_key_are_within_a_tenth_of_a_millimetre(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    clip = small_clip(rng, fps=Fraction(30_000, 1_001))
    (path,) = write_glb(clip, tmp_path)
    glb = Glb(path)
    for frame, vertices in enumerate(clip.vertices):
        assert farthest(glb.vertices_at(frame * 1_001 / 30_000), vertices) < NEAR
    between = 0.5 * (clip.vertices[7] + clip.vertices[8])
    assert farthest(glb.vertices_at(7.5 * 1_001 / 30_000), between) < NEAR
    assert list(tmp_path.iterdir()) == [path] and path.name == "clip.glb"


def test_motion_of_three_directions_has_three_components(rng: np.random.Generator) -> None:
    targets = principal_targets(small_clip(rng, rank=3))
    assert targets.names == ("start", "component_01", "component_02", "component_03")
    assert targets.error < NEAR


def test_weights_lie_between_0_and_1(rng: np.random.Generator) -> None:
    weights = principal_targets(small_clip(rng)).weights
    assert (weights[:, 0] == 1.0).all() and weights.min() == 0.0 and weights.max() == 1.0


def test_a_movement_between_the_sampled_frames_is_kept(rng: np.random.Generator) -> None:
    clip = small_clip(rng, n_frames=3 * SAMPLE + 1)
    clip.vertices[1, 30] += 0.004  # of a vertex that is still in all other frames
    targets = principal_targets(clip)
    rebuilt = clip.template + np.tensordot(targets.weights, targets.deltas, 1)
    assert farthest(rebuilt, clip.vertices) < NEAR and targets.error < NEAR


@pytest.mark.parametrize("n_frames", [1, 5])
def test_a_clip_at_rest_is_the_neutral_face(
    rng: np.random.Generator, tmp_path: Path, n_frames: int
) -> None:
    clip = small_clip(rng)
    still = dataclasses.replace(clip, vertices=np.stack([clip.template] * n_frames))
    glb = Glb(write_glb(still, tmp_path)[0])
    assert (glb.vertices_at(0.1) == clip.template).all()
    assert len(glb.animation()[0]) == n_frames


def test_a_clip_in_another_unit_is_written_in_metres(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    clip = small_clip(rng)
    scaled = dataclasses.replace(
        clip, vertices=clip.vertices * 1000, template=clip.template * 1000, metres_per_unit=1e-3
    )
    glb = Glb(write_glb(scaled, tmp_path)[0])
    assert farthest(glb.vertices_at(0.1), clip.vertices[3]) < NEAR


def test_keys_are_at_the_instants_of_the_frames(rng: np.random.Generator) -> None:
    clip = small_clip(rng, fps=Fraction(24_000, 1_001))
    exact = [float(np.float32(Fraction(t) / clip.fps)) for t in range(len(clip.vertices))]
    assert key_times(clip).tolist() == exact


def test_the_mesh_at_rest_is_the_neutral_face_in_its_order(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    clip = small_clip(rng)
    glb = Glb(write_glb(clip, tmp_path)[0])
    assert (glb.attribute("POSITION") == clip.template).all()
    assert (glb.accessor(glb.primitive["indices"]).reshape(-1, 3) == clip.faces).all()
    assert set(glb.json["meshes"][0]["weights"]) == {0.0}
    assert glb.json["meshes"][0]["extras"]["targetNames"][0] == "start"


def test_still_vertices_take_no_room(rng: np.random.Generator, tmp_path: Path) -> None:
    glb = Glb(write_glb(small_clip(rng), tmp_path)[0])
    for target in glb.primitive["targets"]:
        assert glb.json["accessors"][target["POSITION"]]["sparse"]["count"] == 13


def test_normals_with_all_weights_are_those_of_the_moved_mesh(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    """For a target that tilts a square by 0.1 rad, about the axis x."""
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    tilted = square * [1, np.cos(0.1), 1] + square[:, 1:2] * [0, 0, np.sin(0.1)]
    clip = small_clip(
        rng, template=square, vertices=np.stack([square, tilted]).astype(np.float32),
        faces=np.array([[0, 1, 2], [0, 2, 3]], np.int32),
    )  # fmt: skip
    glb = Glb(write_glb(clip, tmp_path)[0])
    assert glb.attribute("NORMAL") == pytest.approx(np.tile([0, 0, 1], (4, 1)))
    weights = glb.animation()[1][1]
    turned = glb.attribute("NORMAL") + np.tensordot(weights, glb.targets("NORMAL"), 1)
    expected = [0.0, -np.sin(0.1), np.cos(0.1)]
    assert turned == pytest.approx(np.tile(expected, (4, 1)), abs=0.01)


def test_a_vertex_without_a_face_has_a_unit_normal() -> None:
    normals = vertex_normals(np.eye(4, 3), np.array([[0, 1, 2]]))
    assert np.linalg.norm(normals, axis=1) == pytest.approx(np.ones(4))


def test_colours_are_linear(rng: np.random.Generator, tmp_path: Path) -> None:
    colors = np.full((41, 3), 0.5, np.float32)
    glb = Glb(write_glb(small_clip(rng, colors=colors), tmp_path)[0])
    stored = glb.attribute("COLOR_0")[0] / 65_535
    assert stored == pytest.approx(
        [0.2140, 0.2140, 0.2140, 1.0], abs=1e-4
    )  # ((0.5+.055)/1.055)^2.4


def test_a_large_mesh_has_wide_indices(tmp_path: Path) -> None:
    assert index_type(65_535) is np.uint16 and index_type(65_536) is np.uint32
    vertices = np.zeros((65_536, 3), np.float32)
    vertices[-2:] = np.eye(2, 3)
    save_mesh(tmp_path / "head.glb", vertices, np.array([[0, 65_534, 65_535]]))
    glb = Glb(tmp_path / "head.glb")
    assert glb.accessor(glb.primitive["indices"]).ravel().tolist() == [0, 65_534, 65_535]


def test_only_heads_that_are_open_behind_the_mouth_are_drawn_from_both_sides(
    tmp_path: Path,
) -> None:
    for topology, both in ((SYNTHETIC, False), ("vocaset", True)):
        save_mesh(tmp_path / "head.glb", np.eye(3), np.array([[0, 1, 2]]), topology=topology)
        (material,) = Glb(tmp_path / "head.glb").json["materials"]
        assert material.get("doubleSided", False) == both


def test_a_target_that_moves_everything_is_stored_in_full() -> None:
    binary, values = Binary(), np.ones((5, 3), np.float32)
    binary.add_sparse(values, np.ones(5, bool))
    assert "sparse" not in binary.accessors[0]


def test_nan_is_refused_and_no_file_is_left(rng: np.random.Generator, tmp_path: Path) -> None:
    clip = small_clip(rng)
    clip.vertices[11, 3, 1] = np.nan
    with pytest.raises(UserError, match="clip clip: NaN or infinite coordinates in frame 11"):
        write_glb(clip, tmp_path)
    assert not list(tmp_path.iterdir())


def test_named_targets_have_the_curves_as_weights(tmp_path: Path) -> None:
    """Of the jaw at 0.6 and the raised tongue at 1.2, which exceeds a weight of 1."""
    names, basis_mm = unit_basis()
    values = np.zeros((3, len(names)))
    values[1, names.index("jawOpen")] = 0.6
    values[1, names.index("tongueUp")] = 1.2
    template = load_head().templates["mei"]
    vertices = (template + np.tensordot(values, 1e-3 * basis_mm, 1)).astype(np.float32)
    clip = Clip(
        vertices=vertices, template=template, faces=load_head().faces, fps=Fraction(30),
        metres_per_unit=1.0, name="clip", topology=SYNTHETIC,
    )  # fmt: skip
    glb = Glb(write_arkit_glb(clip, tmp_path)[0])
    assert glb.json["meshes"][0]["extras"]["targetNames"] == list(names)
    weights = glb.animation()[1]
    assert weights[1, names.index("jawOpen")] == pytest.approx(0.6, abs=1e-3)
    assert weights.max() <= 1.0
    assert farthest(glb.vertices_at(1 / 30), vertices[1]) < NEAR


def run_reader(name: str, package: str, *arguments: object) -> dict:
    """The JSON that benchmarks/readers/<name> prints; the test is skipped without node or package.

    NODE_PATH names the folder node_modules.
    """
    modules = Path(os.environ.get("NODE_PATH", "node_modules")).absolute()
    if shutil.which("node") is None or not (modules / package).is_dir():
        pytest.skip(
            f"node with the package {package} (npm install {package}; NODE_PATH) is missing"
        )
    command = ["node", READERS / name, modules, *arguments]
    output = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return json.loads(output.stdout)


def test_khronos_validator_finds_nothing(rng: np.random.Generator, tmp_path: Path) -> None:
    colors = rng.random((41, 3), np.float32)
    (path,) = write_glb(small_clip(rng, colors=colors), tmp_path)
    report = run_reader("gltf_validator.mjs", "gltf-validator", path)
    assert report["numErrors"] == 0 and report["numWarnings"] == 0, report["messages"]


def test_three_js_moves_the_vertices_as_the_clip_does(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    clip = small_clip(rng)
    (path,) = write_glb(clip, tmp_path)
    read = run_reader("three_morph.mjs", "three", path, *(t / 30 for t in range(0, 22, 2)))
    assert read["meshes"] == 1 and read["keys"] == 23
    assert farthest(np.array(read["frames"]), clip.vertices[0:22:2]) < NEAR

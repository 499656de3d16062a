"""Characters of users: which of their shapes are moved, by what, and what stays as it was."""

import json
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.read_glb import Glb
from common.errors import UserError
from export.character import load_character
from export.character_animation import write_character
from export.clip import SYNTHETIC, Clip
from export.curves import curves_of, unit_basis
from export.gltf import ATTRIBUTES, Binary, write_glb_file
from export.live_link import ARKIT_UNITS
from export.visemes import OCULUS, SILENCE, VRM, clip_weights
from production.sound_beside import write_sound
from synthetic.head import load_head

UNITS, BASIS_MM = unit_basis()
T = 5
SPOKEN = {"jawOpen": 0.6, "mouthClose": 0.1, "mouthFunnel": 0.3, "tongueUp": 0.75}  # at the end
VISEMES = [f"viseme_{name}" for name in (SILENCE, *OCULUS)]


def spoken_clip() -> Clip:
    """ada opens the mouth over 5 frames and blinks with the left eye in the last."""
    head, values = load_head(), np.zeros((T, len(UNITS)))
    for name, value in SPOKEN.items():
        values[:, UNITS.index(name)] = np.linspace(0, value, T)
    values[-1, UNITS.index("eyeBlinkLeft")] = 1.0
    template = head.templates["ada"]
    vertices = (template + np.tensordot(values, 1e-3 * BASIS_MM, 1)).astype(np.float32)
    rate = Fraction(24_000, 1_001)
    return Clip(vertices, template, head.faces, rate, 1.0, "speech", topology=SYNTHETIC)


CLIP = spoken_clip()  # one, because its curves are kept
CURVES = curves_of(CLIP)


def curve(name: str) -> np.ndarray:
    return CURVES.values[:, CURVES.names.index(name)]


def tiny(path: Path, *meshes: list[str], **content: object) -> Path:
    """A character of triangles with such targets, each shown by one node, and an animation."""
    binary, described = Binary(), []
    for names in meshes:
        corners = binary.add(np.eye(3, dtype=np.float32), ATTRIBUTES, bounds=True)
        targets = [{"POSITION": corners} for _ in names]
        primitive = {"attributes": {"POSITION": corners}, "targets": targets}
        described.append({"primitives": [primitive], "extras": {"targetNames": names}})
    place = binary.add(np.array([0, 1], np.float32), bounds=True)
    turn = {"input": place, "output": binary.add(np.eye(2, 3, dtype=np.float32))}
    move = {"sampler": 0, "target": {"node": 0, "path": "translation"}}
    document = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": list(range(len(meshes)))}],
        "nodes": [{"mesh": k} for k in range(len(meshes))],
        "meshes": described,
        "animations": [{"name": "idle", "samplers": [turn], "channels": [move]}],
        "extras": {"shop": "größer", "price": 0.1},
    }
    write_glb_file(path, *binary.added_to(document | content, b""))
    return path


def driven_json(path: Path, folder: Path) -> dict:
    """The JSON of the character driven by the clip."""
    return Glb(write_character(CLIP, load_character(path), folder)[0]).json


def driven(path: Path, folder: Path, clip: Clip = CLIP) -> tuple[Glb, list[np.ndarray]]:
    """(file, weights (T, K) of each mesh that moves) of the character driven by a clip."""
    (result,) = write_character(clip, load_character(path), folder)
    glb = Glb(result)
    samplers = glb.json["animations"][0]["samplers"]
    return glb, [glb.accessor(s["output"]).reshape(len(clip.vertices), -1) for s in samplers]


def test_all_meshes_with_known_targets_follow_the_curves(tmp_path: Path, capsys) -> None:
    head = ["eyeBlink_L", "smile", "jawOpen", "mouthFunnel", "Mouth_Close"]
    path = tiny(tmp_path / "a.glb", head, ["fat"], ["teeth.jawOpen"])
    glb, (first, second) = driven(path, tmp_path)
    expected = [curve("eyeBlinkLeft"), np.zeros(T), *map(curve, list(SPOKEN)[:1])]
    np.testing.assert_allclose(first[:, :3].T, expected, atol=1e-7)
    np.testing.assert_allclose(first[:, 4], curve("mouthClose"), atol=1e-7)
    np.testing.assert_allclose(second[:, 0], np.linspace(0, 0.6, T), atol=1e-3)
    channels = glb.json["animations"][0]["channels"]
    assert [channel["target"]["node"] for channel in channels] == [0, 2]
    line = capsys.readouterr().out
    assert "speech_character.glb: 4 shapes, the mouth by names of ARKit, move 2 meshes; " in line


def test_everything_else_of_the_file_stays_as_it_was(tmp_path: Path) -> None:
    path = tiny(tmp_path / "a.glb", ["jawOpen"])
    before = Glb(path)
    after, _ = driven(path, tmp_path)
    assert after.bytes.startswith(before.bytes)
    for key in ("bufferViews", "accessors"):
        assert after.json[key][: len(before.json[key])] == before.json[key]
    assert after.json["animations"][1:] == before.json["animations"]
    changed = {"bufferViews", "accessors", "animations", "buffers"}
    assert {k: v for k, v in after.json.items() if k not in changed} == {
        k: v for k, v in before.json.items() if k not in changed
    }


def test_keys_are_at_the_frames_and_the_animation_is_the_first(tmp_path: Path) -> None:
    glb, _ = driven(tiny(tmp_path / "a.glb", ["jawOpen"]), tmp_path)
    animation = glb.json["animations"][0]
    assert animation["name"] == "speech"
    times = glb.accessor(animation["samplers"][0]["input"])[:, 0]
    assert times.tolist() == [float(np.float32(t * 1001 / 24_000)) for t in range(T)]


def test_a_second_run_replaces_the_animation_of_the_first(tmp_path: Path) -> None:
    driven(tiny(tmp_path / "a.glb", ["jawOpen"]), tmp_path)
    glb, _ = driven(tmp_path / "speech_character.glb", tmp_path)
    assert [animation["name"] for animation in glb.json["animations"]] == ["speech", "idle"]


def test_of_two_sets_for_the_mouth_one_is_moved(tmp_path: Path) -> None:
    """Ready Player Me's heads have both, and the mouth would open twice."""
    _, (weights,) = driven(tiny(tmp_path / "a.glb", [*VISEMES, *ARKIT_UNITS]), tmp_path)
    assert not weights[:, : len(VISEMES)].any()
    np.testing.assert_allclose(
        weights[:, len(VISEMES) + ARKIT_UNITS.index("jawOpen")], curve("jawOpen"), atol=1e-7
    )


def test_visemes_move_the_mouth_and_arkit_the_lids(tmp_path: Path) -> None:
    _, (weights,) = driven(tiny(tmp_path / "a.glb", [*VISEMES, "eyesClosed", "jawOpen"]), tmp_path)
    np.testing.assert_allclose(weights[:, : len(VISEMES)], clip_weights(CLIP, OCULUS), atol=1e-6)
    np.testing.assert_allclose(weights[:, -2], 0.5 * curve("eyeBlinkLeft"), atol=1e-6)
    assert not weights[:, -1].any()


def test_a_pair_rests_where_its_sides_are_there(tmp_path: Path) -> None:
    names = ["jawOpen", "eyesClosed", "eyeBlinkLeft", "eyeBlinkRight"]
    _, (weights,) = driven(tiny(tmp_path / "a.glb", names), tmp_path)
    assert not weights[:, 1].any() and weights[-1, 2] == pytest.approx(1, abs=1e-3)


def test_targets_that_are_not_moved_keep_their_weight(tmp_path: Path) -> None:
    path = tiny(tmp_path / "a.glb", ["thin", "jawOpen"], nodes=[{"mesh": 0, "weights": [0.25, 1]}])
    _, (weights,) = driven(path, tmp_path)
    assert (weights[:, 0] == 0.25).all() and weights[0, 1] == 0


def bound(vowel_binds: list[list[dict]], blink: list[dict]) -> tuple[dict, dict]:
    """The extensions of VRM 0.x and 1.0 with vowels and a blink that is on or off."""
    groups = [
        {"presetName": name, "binds": [b | {"weight": 100 * b["weight"]} for b in binds]}
        for name, binds in zip("aiueo", vowel_binds, strict=True)
    ]
    percent = [b | {"weight": 100 * b["weight"]} for b in blink]
    groups.append({"presetName": "blink_l", "isBinary": True, "binds": percent})
    preset = {
        name: {"morphTargetBinds": [{"node": b["mesh"], **b} for b in binds]}
        for name, binds in zip(VRM, vowel_binds, strict=True)
    }
    binds = [{"node": b["mesh"], **b} for b in blink]
    preset["blinkLeft"] = {"isBinary": True, "morphTargetBinds": binds}
    return (
        {"VRM": {"blendShapeMaster": {"blendShapeGroups": groups}}},
        {"VRMC_vrm": {"expressions": {"preset": preset}}},
    )


@pytest.mark.parametrize("version", [0, 1])
def test_expressions_of_vrm_move_all_targets_that_they_bind(tmp_path: Path, version: int) -> None:
    binds = [[{"mesh": 0, "index": k, "weight": 0.5}] for k in range(5)]
    binds[0].append({"mesh": 1, "index": 0, "weight": 1.0})  # aa moves both meshes
    binds[4].append({"mesh": 0, "index": 0, "weight": 0.25})  # oh moves the target of aa
    extensions = bound(binds, [{"mesh": 0, "index": 5, "weight": 1.0}])[version]
    path = tiny(tmp_path / "a.vrm", ["a", "b", "c", "d", "e", "f"], ["g"], extensions=extensions)
    _, (first, second) = driven(path, tmp_path)
    vowels = clip_weights(CLIP, VRM)[:, 1:]
    assert vowels[:, 0].max() > 0.1
    np.testing.assert_allclose(first[:, 0], 0.5 * vowels[:, 0] + 0.25 * vowels[:, 4], atol=1e-6)
    np.testing.assert_allclose(first[:, 1:5], 0.5 * vowels[:, 1:], atol=1e-6)
    np.testing.assert_allclose(second[:, 0], vowels[:, 0], atol=1e-6)
    assert first[:, 5].tolist() == [0, 0, 0, 0, 1]


def test_an_expression_of_an_absent_target_is_named(tmp_path: Path, capsys) -> None:
    binds = [[{"mesh": 0, "index": k, "weight": 1.0}] for k in range(5)]
    extensions = bound(binds, [{"mesh": 0, "index": 9, "weight": 1.0}])[0]
    load_character(tiny(tmp_path / "a.vrm", list("vwxyz"), extensions=extensions))
    line = capsys.readouterr().err
    assert "the expression blink_l binds target 9 of mesh 0, which does not exist" in line


def test_missing_shapes_are_listed_with_the_nearest(tmp_path: Path, capsys) -> None:
    driven(tiny(tmp_path / "a.glb", ["jawOpen", "mouthFunel"]), tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("missing of those used: mouthClose, mouthFunnel (nearest: mouthFunel)")


def test_the_sound_is_the_part_that_is_spoken(tmp_path: Path) -> None:
    """Of three channels the mean is written, at the rate of the recording."""
    sound = np.zeros((2_000, 3), np.float32)
    sound[500:1_500] = 0.5, 0.1, 0.0
    soundfile.write(tmp_path / "in.wav", sound, 1_000 * 8)
    write_sound(tmp_path / "out.wav", tmp_path / "in.wav", None, 0.05, 0.2)
    written, rate = soundfile.read(tmp_path / "out.wav")
    expected = np.where(np.arange(400, 1_600) - 500 >= 0, 0.2, 0.0) * (
        np.arange(400, 1_600) < 1_500
    )
    assert rate == 8_000 and written.shape == (1_200,)
    np.testing.assert_allclose(written, expected, atol=1e-4)


def test_obj_files_become_a_character(tmp_path: Path) -> None:
    folder = tmp_path / "head"
    folder.mkdir()
    (folder / "Neutral.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (folder / "jaw_open.obj").write_text("v 0 -2 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (folder / "identity.obj").write_text("v 9 9 9\n")
    glb, (weights,) = driven(folder, tmp_path)
    np.testing.assert_allclose(weights[:, 0], curve("jawOpen"), atol=1e-7)
    assert glb.targets("POSITION").tolist() == [[[0, -2, 0], [0, 0, 0], [0, 0, 0]]]
    for text, message in (
        ("v 0 0 0\nf 1 1 1\n", "1 vertices, expected 3 as in Neutral.obj"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 3 2\n", "other faces than Neutral.obj"),
    ):
        (folder / "jaw_open.obj").write_text(text)
        with pytest.raises(UserError, match=message):
            load_character(folder)
    (folder / "Neutral.obj").unlink()
    with pytest.raises(UserError, match="0 of its 2 .obj files are neutral faces, expected one"):
        load_character(folder)


def as_gltf(glb: Path, folder: Path, **content: object) -> Path:
    """The character as .gltf, with its bytes in a file beside it."""
    document = Glb(glb)
    (folder / "a b.bin").write_bytes(document.bytes)
    document.json["buffers"][0]["uri"] = "a%20b.bin"
    path = folder / "a.gltf"
    path.write_text(json.dumps(document.json | content))
    return path


def test_a_gltf_is_written_with_its_files_inside(tmp_path: Path) -> None:
    glb = tiny(tmp_path / "a.glb", ["jawOpen"])
    picture = b"\x89PNG picture"
    (tmp_path / "skin.png").write_bytes(picture)
    path = as_gltf(glb, tmp_path, images=[{"uri": "skin.png"}])
    result, _ = driven(path, tmp_path)
    (image,) = result.json["images"]
    view = result.json["bufferViews"][image["bufferView"]]
    assert result.bytes[view["byteOffset"] :][: view["byteLength"]] == picture
    assert image == {"bufferView": image["bufferView"], "mimeType": "image/png"}
    assert result.bytes.startswith(Glb(glb).bytes) and "uri" not in result.json["buffers"][0]


def test_views_of_several_buffers_are_moved(tmp_path: Path) -> None:
    glb = Glb(tiny(tmp_path / "a.glb", ["jawOpen"]))
    (tmp_path / "1.bin").write_bytes(b"12345")  # one byte beyond a multiple of 4
    (tmp_path / "2.bin").write_bytes(glb.bytes)
    n_bytes, views = len(glb.bytes), glb.json["bufferViews"]
    buffers = [{"uri": "1.bin", "byteLength": 5}, {"uri": "2.bin", "byteLength": n_bytes}]
    document = glb.json | {"buffers": buffers, "bufferViews": [v | {"buffer": 1} for v in views]}
    (tmp_path / "a.gltf").write_text(json.dumps(document))
    result, _ = driven(tmp_path / "a.gltf", tmp_path)
    assert (result.attribute("POSITION") == np.eye(3)).all()


def test_views_that_meshopt_has_compressed_stay_as_they_are(tmp_path: Path) -> None:
    """Their bytes lie in the first buffer; the second is the room that they unfold to."""
    name = "EXT_meshopt_compression"
    glb = Glb(tiny(tmp_path / "a.glb", ["jawOpen"]))
    packed = {"buffer": 0, "byteOffset": 4, "byteLength": 8, "count": 3, "byteStride": 12}
    view = {"buffer": 1, "byteLength": 36, "extensions": {name: packed}}
    room = {"byteLength": 36, "extensions": {name: {"fallback": True}}}
    buffers, views = glb.json["buffers"], glb.json["bufferViews"]
    changed(tmp_path / "a.glb", buffers=[*buffers, room], bufferViews=[view, *views[1:]])
    result = driven_json(tmp_path / "a.glb", tmp_path)
    assert result["buffers"][1] == room and result["bufferViews"][0] == view


def broken(**content: object):
    return lambda path: tiny(path, ["jawOpen"], **content)


def cut(path: Path) -> None:
    path.write_bytes(tiny(path, ["jawOpen"]).read_bytes()[:-9])


def changed(path: Path, **content: object) -> None:
    """A character whose parts are other than the writer makes them."""
    glb = Glb(tiny(path, ["jawOpen"]))
    text = json.dumps(glb.json | content).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(glb.bytes), b"BIN\0") + glb.bytes
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)


def unnamed(path: Path) -> None:
    tiny(path, ["fat", "thin"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (cut, "truncated: .* bytes, expected .*; copy it again"),
        (lambda path: path.write_bytes(b"glTF"), "truncated: 4 bytes"),
        (lambda path: path.write_bytes(b"no json at all"), "not a .glb, .vrm or .gltf"),
        (broken(asset={"version": "1.0"}), "glTF 1.0, expected glTF 2"),
        (lambda path: tiny(path, []), "no morph targets; export the head with its shape keys"),
        (unnamed, "none of its 2 shapes has a known name: fat, thin; name them as ARKit"),
        (broken(nodes=[]), "no node shows its meshes"),
        (broken(nodes=[{"mesh": 7}]), "broken: mesh is 7, expected 0 to 0"),
        (broken(nodes={}), "nodes are no list of objects"),
        (broken(meshes=[{"primitives": 5}]), "broken .*; export it again"),
        (broken(images=[{"uri": "skin.png"}]), "skin.png is missing; put it beside a.glb"),
        (broken(images=[{"uri": "../skin.png"}]), "expected a file beside it"),
        (broken(images=[{"uri": "https://x/a.png"}]), "expected a file beside it"),
        (lambda p: changed(p, buffers=[{"byteLength": 10**6}]), "truncated: a buffer of"),
        (lambda p: changed(p, bufferViews=[{"buffer": 0, "byteLength": 10**6}]),
         "buffer view 0 ends at byte 1000000 of a buffer of"),
        (lambda p: changed(p, accessors=[{"type": "VEC3", "componentType": 5126, "count": 99,
                                          "bufferView": 0}]), "accessor 0 ends at byte 1188"),
        (lambda p: changed(p, accessors=[{"type": "VEC3", "componentType": 5126, "count": 3,
            "sparse": {"count": 4, "indices": {}, "values": {}}}]), "count is 4, expected 0 to 3"),
    ],
)  # fmt: skip
def test_bad_files_are_named_in_one_line(tmp_path: Path, make, message: str) -> None:
    make(tmp_path / "a.glb")
    with pytest.raises(UserError, match=message) as error:
        load_character(tmp_path / "a.glb")
    assert str(error.value).startswith("character ") and "\n" not in str(error.value)


def test_fbx_and_other_files_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="FBX is not read; in Blender import it"):
        load_character(tmp_path / "a.fbx")
    with pytest.raises(UserError, match="expected .glb, .gltf, .vrm or a folder of .obj files"):
        load_character(tmp_path / "a.blend")

"""The animation of a character's morph targets by a clip's curves, added to its own file.

T frames, K targets of a mesh.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.character import ANIMATION, Character, Kind, n_targets, sources_of
from export.clip import Clip
from export.curves import curves_of, limits
from export.glb import key_times
from export.gltf import Binary, write_glb_file
from export.shape_names import nearest
from export.visemes import OCULUS, SILENCE, VRM, clip_weights

USED = 0.01  # largest value of a curve that counts as motion


def write_character(clip: Clip, character: Character, folder: Path) -> list[Path]:
    """Write `<name>_character.glb`: the character's file with an animation "speech"; its path.

    Keys are at the instants of the frames, t / fps. The animation stands first, where viewers
    start; one of this name that an earlier run has added is replaced. Raises `UserError` as
    `curves_of`, `OSError` of the disk.
    """
    file, binary = character.file, Binary()
    values = source_values(clip, character.kind)
    weights = target_weights(character, values, len(clip.vertices))
    times = binary.add(key_times(clip), bounds=True)
    samplers, channels, outputs = [], [], {}
    for index, node in enumerate(file.items("nodes")):
        mesh = node.get("mesh")
        if mesh not in weights:
            continue
        rest = node.get("weights") or file.items("meshes")[mesh].get("weights")
        track = _with_rest(weights[mesh], rest)
        key = track.tobytes()
        if key not in outputs:
            outputs[key] = binary.add(track.ravel())
        channels.append({"sampler": len(samplers), "target": {"node": index, "path": "weights"}})
        samplers.append({"input": times, "output": outputs[key], "interpolation": "LINEAR"})
    n_before = len(file.items("accessors"))
    for sampler in samplers:
        sampler |= {"input": n_before + times, "output": n_before + sampler["output"]}
    document, content = binary.added_to(file.document, file.content)
    own = {"name": ANIMATION, "samplers": samplers, "channels": channels}
    path = folder / f"{clip.name}_character.glb"
    write_glb_file(path, document | {"animations": [own, *character.animations]}, content)
    print(f"{path.name}: {summary(character, values, len(channels))}")
    return [path]


def source_values(clip: Clip, kind: Kind) -> dict[str, NDArray[np.float64]]:
    """Values (T,), 0 to 1, of ARKit's units and of the poses of a kind."""
    curves = curves_of(clip)
    values = dict(zip(curves.names, (curves.values / limits(curves.names)).T, strict=True))
    if kind.name != "ARKit":
        phones_of = OCULUS if kind.name == "Oculus" else VRM
        values |= dict(zip((SILENCE, *phones_of), clip_weights(clip, phones_of).T, strict=True))
    return values


def target_weights(
    character: Character, values: Mapping[str, NDArray], n_frames: int
) -> dict[int, NDArray[np.float32]]:
    """Mesh -> weights (T, K), 0 to 1, of those that are driven; NaN where a target is not."""
    meshes, weights = character.file.items("meshes"), {}
    for drive in character.drives:
        sources = [values[source] for source in drive.sources if source in values]
        value = np.mean(sources, axis=0) if sources else np.zeros(n_frames)
        value = np.round(value) if drive.shape.is_binary else value
        for mesh, target, weight in drive.shape.binds:
            if mesh not in weights:
                weights[mesh] = np.full((n_frames, n_targets(meshes[mesh])), np.nan, np.float32)
            column = weights[mesh][:, target]
            column[:] = np.clip(np.nan_to_num(column) + weight * value, 0.0, 1.0)
    return weights


def _with_rest(weights: NDArray[np.float32], rest: Any) -> NDArray[np.float32]:
    """Weights (T, K) with those at rest (K) for the targets that are not driven."""
    at_rest = np.zeros(weights.shape[1], np.float32)
    if isinstance(rest, list) and len(rest) == len(at_rest):
        at_rest[:] = rest
    return np.where(np.isnan(weights), at_rest, weights)


def summary(character: Character, values: Mapping[str, NDArray], n_nodes: int) -> str:
    """One line: what moves the character, and what the speech uses and the character lacks."""
    present = sources_of(character.drives)
    kind = character.kind
    missing = [
        name
        for name in kind.shapes
        if name in values and values[name].max() > USED and name not in present | {SILENCE}
    ]
    close = {name: nearest(name, character.names) for name in missing}
    listed = ", ".join(f"{n} (nearest: {close[n]})" if close[n] else n for n in missing)
    return (
        f"{len(present)} shapes, the mouth by names of {kind.name}, move {n_nodes} "
        f"mesh{'es' * (n_nodes != 1)}; missing of those used: {listed or 'none'}"
    )

"""Your own data: a folder of recordings and captured meshes becomes a recipe.

    my_data/
      wav/<clip>.wav                any name, any rate; .flac, .mp3, .ogg as well
      vertices_npy/<clip>.npy       (frames, V*3) or (frames, V, 3) float, one topology
      templates.pkl                 neutral faces: {subject: (V, 3)}; or .npz, or a folder
                                    templates/ of <subject>.ply/.obj, or one template.ply/.obj
      dataset.json                  optional: what is not to be inferred, see dataset_json.KEYS

What dataset.json does not say is inferred and told: unit from the size of the head, frame rate
from the clips' lengths, the subject of a clip from its name, splits, regions, topology. y is up
and faces look along +z.
"""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.overrides import override
from common.paths import relative_to_project
from config import RECIPES, DatasetSpec, Recipe, Split
from dataset.base_recipe import with_base
from dataset.own_settings import chosen_splits, read_json, settings_of
from dataset.prepared import AUDIO_SUFFIXES, clip_rate, subject_of
from dataset.regions import look_up
from files.arrays import load_npy
from files.meshes import MESH_SUFFIXES, load_mesh, load_templates

DEFAULT_BASE = "vocaset"  # the paper's network
SMALLER = " (the paper's; --base synthetic: a small network whose encoder comes along)"
UNITS = {"metres": 1.0, "centimetres": 0.01, "millimetres": 0.001}
HEAD_M = (0.1, 0.7)  # metres, the largest extent of a face, a head, a bust
USUAL_HEAD_M = 0.25  # of a head in no known unit
FRAME_RATES = (10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120)
RATE_TOLERANCE = 0.08  # of a usual frame rate, by which the clips may miss it
CLIP_TOLERANCE, CLIP_TOLERANCE_S = 0.2, 0.25  # of the median rate, and s, for one clip
MAX_FPS = 30  # that the network is trained at unless dataset.json says more
BY_SUBJECT = 4  # subjects from which whole subjects are held out
HELD_SUBJECTS, HELD_CLIPS = 1 / 6, 1 / 10  # shares of val and of test, as VOCASET's and BIWI's
TEMPLATES = ("templates.pkl", "templates.npz", "templates", *(
    f"{name}{suffix}" for name in ("template", "templates") for suffix in MESH_SUFFIXES
))  # fmt: skip
CLIPS_LOOKED_AT, FRAMES_LOOKED_AT = 8, 24  # to see whether the lips move
REGION_FILES = {"lips": "lips_region", "upper": "upper_region", "inner_lips": "inner_lips"}
REGION_SUFFIXES = (".txt", ".npy", ".pkl")


def read_folder(folder: Path, base: str | None = None) -> tuple[Recipe, str]:
    """The recipe of a folder of own data, and aligned lines that say what was found.

    base: name of a recipe, before that of dataset.json. Raises `UserError` naming the file that
    does not fit.
    """
    said = read_json(folder / "dataset.json")
    names = find_pairs(folder)
    path = _templates_path(folder, said)
    templates = check_templates(path, load_templates(path))
    mean = np.mean(list(templates.values()), axis=0)
    metres, unit = unit_of(mean, said.get("metres_per_unit"))
    fps, source_fps = frame_rates(folder, names, said)
    subjects = subjects_of(names, path, tuple(templates))
    splits, how = splits_of(subjects, said)
    spec = DatasetSpec(
        name=folder.resolve().name, root=relative_to_project(folder),
        fps=fps, source_fps=source_fps,
        n_vertices=len(mean), metres_per_unit=metres, templates=relative_to_project(path),
        topology=_topology(folder, path, len(mean), said), splits=splits,
        **_regions(folder, said),
    )  # fmt: skip
    if spec.name in RECIPES:
        spec = dataclasses.replace(spec, name=f"{spec.name} (own)")
    base = base or said.get("base", DEFAULT_BASE)
    if base not in RECIPES:
        raise UserError(f"base {base}: no such recipe; config.py has {', '.join(RECIPES)}")
    recipe = override(with_base(spec, RECIPES[base]), settings_of(folder, said))
    if "wav2vec2" in said:
        beside = folder / said["wav2vec2"]
        source = relative_to_project(beside) if beside.is_dir() else said["wav2vec2"]
        recipe = dataclasses.replace(recipe, wav2vec2=source)
    facts = {
        "clips": f"{len(names)}: {', '.join(f'{len(s.clips)} {k}' for k, s in splits.items())}"
        f" ({how})",
        "subjects": f"{len(set(subjects.values()))}: {_few(sorted(set(subjects.values())))}",
        "vertices": f"{len(mean)}, {unit}",
    }
    lines = [*_aligned(facts | _facts_of(spec, base)), lips_that_rest(spec, folder, names)]
    return recipe, "\n".join(filter(None, lines))


def _facts_of(spec: DatasetSpec, base: str) -> dict[str, str]:
    return {
        "frames": f"{spec.source_fps} a second on disk, {spec.fps} for the network",
        "lips": _region_line(spec, "lips"),
        "upper face": _region_line(spec, "upper"),
        "topology": spec.topology or "none: a video needs topology.ply or .obj with the triangles",
        "recipe": base + SMALLER * (base == DEFAULT_BASE),
    }


def _aligned(facts: dict[str, str]) -> list[str]:
    return [f"  {name:<11}{text}" for name, text in facts.items()]


def find_pairs(folder: Path) -> list[str]:
    """Names of the clips; `UserError` naming one that lacks its sound or its vertices."""
    for part in ("wav", "vertices_npy"):
        if not (folder / part).is_dir():
            raise UserError(
                f"{folder}: no folder {part}/; own data are wav/<clip>.wav, "
                'vertices_npy/<clip>.npy and templates (README.md, "Your own data")'
            )
    sounds = {p.stem: p for p in (folder / "wav").iterdir() if p.suffix.lower() in AUDIO_SUFFIXES}
    meshes = {p.stem: p for p in (folder / "vertices_npy").glob("*.npy")}
    for here, there, what in (
        (sounds, meshes, "vertices_npy/{}.npy"),
        (meshes, sounds, "wav/{}.wav"),
    ):
        alone = sorted(set(here) - set(there))
        if alone:
            more = f" ({len(alone)} clips lack theirs)" if len(alone) > 1 else ""
            close = difflib.get_close_matches(alone[0], set(there) - set(here))
            hint = f"; {there[close[0]].name} has no partner either" if close else ""
            raise UserError(f"{here[alone[0]]}: no {what.format(alone[0])} for it{more}{hint}")
    if len(meshes) < 3:
        raise UserError(f"{folder}: {len(meshes)} clips; 3 are the least: train, val, test")
    return sorted(meshes)


def _templates_path(folder: Path, said: dict[str, Any]) -> Path:
    if "templates" in said:
        return folder / said["templates"]
    for name in TEMPLATES:
        if (folder / name).exists():
            return folder / name
    raise UserError(
        f"{folder}: no neutral faces; wanted templates.pkl or .npz, a folder templates/ of "
        "<subject>.ply or .obj, or one template.ply or .obj that serves all"
    )


def check_templates(path: Path, templates: dict[str, NDArray]) -> dict[str, NDArray]:
    """`templates`; `UserError` where one has another scale than the others."""
    sizes = {name: float(np.ptp(mesh, axis=0).max()) for name, mesh in templates.items()}
    usual = float(np.median(list(sizes.values())))
    for name, size in sizes.items():
        if not 0.5 * usual < size < 2.0 * usual:
            raise UserError(
                f"templates {path}: {name} is {size:.4g} across, the others {usual:.4g}: "
                "give all of them one unit"
            )
    return templates


def unit_of(template: NDArray, metres: float | None) -> tuple[float, str]:
    """(metres a unit, in words) of a face (V, 3), by its size unless `metres` says it."""
    size = float(np.ptp(template, axis=0).max())
    if metres is not None:
        return metres, f"a unit is {metres:g} m as dataset.json says (a face {size:.4g} across)"
    for name, unit in UNITS.items():
        if HEAD_M[0] <= size * unit <= HEAD_M[1]:
            return unit, f"in {name} (a face {size:.4g} across)"
    return USUAL_HEAD_M / size, (
        f"in no usual unit (a face {size:.4g} across): taken to be {USUAL_HEAD_M} m, or say "
        '"metres_per_unit" in dataset.json'
    )


def frame_rates(folder: Path, names: list[str], said: dict[str, Any]) -> tuple[int, int]:
    """(fps of the network, fps on disk): what dataset.json says, else from the clips' lengths."""
    rates = {name: clip_rate(folder, name) for name in names}
    median = float(np.median(list(rates.values())))
    source = said.get("source_fps") or min(FRAME_RATES, key=lambda rate: abs(rate - median))
    if abs(source - median) > RATE_TOLERANCE * source:
        raise UserError(
            f"{folder}: {median:.1f} frames for a second of sound, no usual frame rate"
            if "source_fps" not in said
            else f"{folder}/dataset.json: source_fps {source}, but clips have {median:.1f} frames "
            "for a second of sound"
        )
    for name, rate in rates.items():
        off_s = abs(rate / source - 1) * len(_npy(folder, name)) / rate
        if abs(rate / median - 1) > CLIP_TOLERANCE and off_s > CLIP_TOLERANCE_S:
            raise UserError(
                f"{folder / 'vertices_npy' / name}.npy: {rate:.1f} frames for a second of its "
                f"sound, the other clips {median:.1f}: another frame rate, or not its sound"
            )
    fps = said.get("fps") or source // next(k for k in range(1, 99) if source / k <= MAX_FPS)
    if source % fps:
        raise UserError(f"{folder}/dataset.json: fps {fps} does not divide source_fps {source}")
    return fps, source


def _npy(folder: Path, name: str) -> NDArray:
    return load_npy(folder / "vertices_npy" / f"{name}.npy", "vertices", mapped=True)


def subjects_of(names: list[str], path: Path, known: tuple[str, ...]) -> dict[str, str]:
    """Clip -> subject, the longest of the templates' names that it begins with."""
    found = {}
    for name in names:
        subject = subject_of(name, known)
        if subject is None:
            raise UserError(
                f"clip {name}: begins with no name of {path} ({_few(sorted(known))}); call clips "
                "<subject>_<anything>, or bring one template for all"
            )
        found[name] = subject
    return found


def _few(words: list[str]) -> str:
    return ", ".join(words[:6]) + (", ..." if len(words) > 6 else "")


def splits_of(subjects: dict[str, str], said: dict[str, Any]) -> tuple[dict[str, Split], str]:
    """Splits of clips (name -> subject), and how they came about.

    From four subjects on a sixth of them is held out for val and a sixth for test, one at least;
    below that a tenth of each subject's clips. Names decide, so that a folder is always split in
    the same way.
    """
    people = sorted(set(subjects.values()))
    chosen: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    if "splits" in said:
        chosen, how = chosen_splits(subjects, said["splits"]), "as dataset.json says"
    elif len(people) >= BY_SUBJECT:
        for split, part in _held_out(people, HELD_SUBJECTS).items():
            chosen[split] = [name for name, subject in subjects.items() if subject in part]
        how = "by subject"
    else:
        of_each = [[n for n in sorted(subjects) if subjects[n] == subject] for subject in people]
        if min(map(len, of_each)) < 3:
            of_each = [sorted(subjects)]
        for clips in of_each:
            for split, part in _held_out(clips, HELD_CLIPS).items():
                chosen[split] += part
        how = "by sentence, the last of their names held out"
    return {k: Split(tuple(people), (), clips=tuple(sorted(v))) for k, v in chosen.items()}, how


def _held_out(things: list[str], share: float) -> dict[str, list[str]]:
    held = max(1, round(len(things) * share))
    return {"train": things[: -2 * held], "val": things[-2 * held : -held], "test": things[-held:]}


def _regions(folder: Path, said: dict[str, Any]) -> dict[str, str]:
    """Fields of the spec for the region files that dataset.json names or the folder has."""
    named = said.get("regions", {})
    unknown = set(named) - set(REGION_FILES)
    if unknown:
        raise UserError(
            f'{folder}/dataset.json: no region "{min(unknown)}"; wanted {", ".join(REGION_FILES)}'
        )
    found = {"lips_region": "", "upper_region": ""}
    for which, field in REGION_FILES.items():
        files = [folder / f"{which}{suffix}" for suffix in REGION_SUFFIXES]
        path = folder / named[which] if which in named else next(filter(Path.exists, files), None)
        if path is not None:
            found[field] = relative_to_project(path)
    return found


def _topology(folder: Path, templates: Path, n_vertices: int, said: dict[str, Any]) -> str:
    """The mesh with triangles: as said, topology.ply/.obj, a template, or "" for none."""
    if "topology" in said:
        return relative_to_project(folder / said["topology"])
    if templates.suffix == ".npz":
        with np.load(templates) as archive:
            if "faces" in archive:
                return relative_to_project(templates)
    meshes = [folder / f"topology{suffix}" for suffix in MESH_SUFFIXES]
    meshes += sorted(templates.iterdir()) if templates.is_dir() else [templates]
    meshes += sorted(folder.iterdir())
    for path in meshes:
        if path.suffix.lower() in MESH_SUFFIXES and path.is_file():
            vertices, faces = load_mesh(path)
            if len(vertices) == n_vertices and len(faces):
                return relative_to_project(path)
    return ""


def _region_line(spec: DatasetSpec, which: str) -> str:
    region, _ = look_up(spec, which)
    counted = "" if "vertices" in region.source else f"{len(region.indices)} vertices of "
    return f"{counted}{region.source}"


def lips_that_rest(spec: DatasetSpec, folder: Path, names: list[str]) -> str:
    """A warning when the lips' vertices move less than the face on the whole; "" otherwise."""
    lips, _ = look_up(spec, "lips")
    moved = np.zeros(spec.n_vertices)
    for name in names[:: max(len(names) // CLIPS_LOOKED_AT, 1)]:
        stored = _npy(folder, name)
        frames = stored[:: max(len(stored) // FRAMES_LOOKED_AT, 1)]
        if frames.size == len(frames) * spec.n_vertices * 3:  # else an error of its own, later
            moved += frames.reshape(len(frames), -1, 3).std(axis=0).sum(axis=1)
    if moved[lips.indices].mean() >= moved.mean():
        return ""
    return (
        f"warning: the lips ({lips.source}) move less than the face on the whole: is y up and z "
        'forward? Name their vertices in lips.txt, or under "regions" in dataset.json'
    )

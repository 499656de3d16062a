"""Your own data: a folder of recordings and captured meshes becomes a recipe.

    my_data/
      wav/<clip>.wav                any name, any rate; .flac, .mp3, .ogg as well
      vertices_npy/<clip>.npy       (frames, V*3) or (frames, V, 3) float, one topology
      templates.pkl                 neutral faces: {subject: (V, 3)}; or .npz, or a folder
                                    templates/ of <subject>.ply/.obj, or one template.ply/.obj
      dataset.json                  optional: whatever is not to be guessed, see KEYS

What dataset.json does not say is inferred and told: unit from the size of the head, frame rate
from the clips' lengths, the subject of a clip from its name, splits, regions, topology. y is up
and faces look along +z.
"""

import dataclasses
import difflib
import fnmatch
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import RECIPES, DatasetSpec, Recipe, Split
from errors import UserError
from mesh_files import MESH_SUFFIXES, load_mesh, load_npy, load_templates
from overrides import override, with_base
from prepared_data import AUDIO_SUFFIXES, clip_rate, shown, subject_of
from regions import find_region

KEYS = {  # of dataset.json
    "fps": "frames a second that the network predicts",
    "source_fps": "frames a second of vertices_npy/, a multiple of fps",
    "metres_per_unit": "0.001 for millimetres",
    "splits": 'split -> clips: names, patterns like "anna_*", or subjects; "train", "val", "test"',
    "regions": '"lips", "upper", "inner_lips" -> file of vertex indices',
    "templates": "file or folder of the neutral faces",
    "topology": "mesh whose triangles are drawn",
    "base": "recipe that network and training are taken from",
    "model": "fields of config.ModelConfig to change",
    "train": "fields of config.TrainConfig to change",
    "wav2vec2": "pre-trained encoder",
}
DEFAULT_BASE = "vocaset"  # the paper's network
UNITS = {"metres": 1.0, "centimetres": 0.01, "millimetres": 0.001}
HEAD_M = (0.1, 0.7)  # metres, the largest extent of a face, a head, a bust
USUAL_HEAD_M = 0.25  # of a head in no known unit
FRAME_RATES = (10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120)
RATE_TOLERANCE = 0.08  # of a usual frame rate, by which the clips may miss it
CLIP_TOLERANCE, CLIP_TOLERANCE_S = 0.2, 0.25  # of the median rate, and s, for one clip
MAX_FPS = 30  # that the network is trained at unless dataset.json says more
BY_SUBJECT = 4  # subjects from which whole subjects are held out
TEMPLATES = ("templates.pkl", "templates.npz", "templates", *(
    f"{name}{suffix}" for name in ("template", "templates") for suffix in MESH_SUFFIXES
))  # fmt: skip
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
        name=folder.resolve().name, root=shown(folder), fps=fps, source_fps=source_fps,
        n_vertices=len(mean), metres_per_unit=metres, templates=shown(path),
        topology=_topology(folder, path, len(mean), said), splits=splits,
        **_regions(folder, said),
    )  # fmt: skip
    if spec.name in RECIPES:
        spec = dataclasses.replace(spec, name=f"{spec.name} (own)")
    base = base or said.get("base", DEFAULT_BASE)
    if base not in RECIPES:
        raise UserError(f"base {base}: no such recipe; config.py has {', '.join(RECIPES)}")
    recipe = with_base(spec, RECIPES[base])
    recipe = override(recipe, _settings(folder, said))
    recipe = dataclasses.replace(recipe, wav2vec2=said.get("wav2vec2", recipe.wav2vec2))
    facts = {
        "clips": f"{len(names)}: {', '.join(f'{len(s.clips)} {k}' for k, s in splits.items())}"
        f" ({how})",
        "subjects": f"{len(set(subjects.values()))}: {_few(sorted(set(subjects.values())))}",
        "vertices": f"{len(mean)}, {unit}",
        "frames": f"{source_fps} a second on disk, {fps} for the network",
        "lips": _region_line(spec, "lips", folder, names),
        "upper face": _region_line(spec, "upper", folder, names),
        "topology": spec.topology or "none: a video needs topology.ply or .obj with the triangles",
        "network": f"recipe {base}, {recipe.model.d_model} wide, encoder {recipe.wav2vec2}",
    }
    return recipe, "\n".join(f"  {name:<11}{text}" for name, text in facts.items())


def read_json(path: Path) -> dict[str, Any]:
    """The content of dataset.json, {} without one; `UserError` for keys that it does not have."""
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    kinds = {"fps": int, "source_fps": int, "metres_per_unit": float | int, "splits": dict,
             "regions": dict, "model": dict, "train": dict}  # fmt: skip
    if not isinstance(said, dict):
        raise UserError(f"{path}: wanted an object with some of {', '.join(KEYS)}")
    for key, value in said.items():
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS)
            hint = f"did you mean {close[0]}?" if close else f"wanted some of {', '.join(KEYS)}"
            raise UserError(f'{path}: unknown key "{key}"; {hint}')
        if not isinstance(value, kinds.get(key, str)) or isinstance(value, bool):
            raise UserError(f'{path}: "{key}" is {json.dumps(value)}; it means: {KEYS[key]}')
        if isinstance(value, int | float) and value <= 0:
            raise UserError(f'{path}: "{key}" is {value}; wanted more than 0')
    return said


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
        unit = metres, f"a unit is {metres:g} m (dataset.json)"
    else:
        fitting = [(m, u) for u, m in UNITS.items() if HEAD_M[0] <= size * m <= HEAD_M[1]]
        if fitting:
            return fitting[0][0], f"in {fitting[0][1]} (a face {size:.4g} across)"
        unit = USUAL_HEAD_M / size, "in no usual unit"
    return unit[0], f"{unit[1]}, {size:.4g} across: the face is taken to be {size * unit[0]:.3g} m"


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

    From four subjects on every sixth is held out for val and every sixth for test, one at least;
    below that every tenth clip of each, one at least. Names decide, so the same folder is always
    split in the same way.
    """
    if "splits" in said:
        chosen, how = _chosen_splits(subjects, said["splits"]), "dataset.json"
    else:
        people = sorted(set(subjects.values()))
        by_subject = len(people) >= BY_SUBJECT
        things = people if by_subject else sorted(subjects)
        held = max(1, round(len(things) / (6 if by_subject else 10)))
        parts = {"train": things[: -2 * held], "val": things[-2 * held : -held],
                 "test": things[-held:]}  # fmt: skip
        chosen = {
            split: [n for n, subject in subjects.items() if (subject if by_subject else n) in part]
            for split, part in parts.items()
        }
        how = "by subject" if by_subject else "by sentence, in the order of their names"
    everyone = tuple(sorted(set(subjects.values())))
    return {k: Split(everyone, (), clips=tuple(sorted(v))) for k, v in chosen.items()}, how


def _chosen_splits(subjects: dict[str, str], wanted: dict[str, Any]) -> dict[str, list[str]]:
    chosen: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for split, entries in wanted.items():
        if not isinstance(entries, list) or not all(isinstance(e, str) for e in entries):
            raise UserError(f'dataset.json: split "{split}" is no list of clips')
        chosen[split] = []
        for entry in entries:
            found = [n for n, s in subjects.items() if s == entry or fnmatch.fnmatch(n, entry)]
            if not found:
                raise UserError(f'dataset.json: split "{split}": "{entry}" is no clip or subject')
            for name in found:
                if owner.setdefault(name, split) != split:
                    raise UserError(f"dataset.json: clip {name} is in {owner[name]} and {split}")
            chosen[split] += [name for name in found if name not in chosen[split]]
    for split in ("train", "val"):
        if not chosen.get(split):
            raise UserError(f'dataset.json: splits have no "{split}", by which training goes')
    return chosen


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
            found[field] = shown(path)
    return found


def _topology(folder: Path, templates: Path, n_vertices: int, said: dict[str, Any]) -> str:
    """The mesh with triangles: as said, topology.ply/.obj, a template, or "" for none."""
    if "topology" in said:
        return shown(folder / said["topology"])
    if templates.suffix == ".npz":
        with np.load(templates) as archive:
            if "faces" in archive:
                return shown(templates)
    meshes = [folder / f"topology{suffix}" for suffix in MESH_SUFFIXES]
    meshes += sorted(templates.iterdir()) if templates.is_dir() else [templates]
    meshes += sorted(folder.iterdir())
    for path in meshes:
        if path.suffix.lower() in MESH_SUFFIXES and path.is_file():
            vertices, faces = load_mesh(path)
            if len(vertices) == n_vertices and len(faces):
                return shown(path)
    return ""


def _settings(folder: Path, said: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What dataset.json says of model and train, as `override` wants it."""
    return [
        (
            f"{folder}/dataset.json {part}.{field}",
            f"{part}.{field}",
            value if isinstance(value, str) else json.dumps(value),
        )
        for part in ("model", "train")
        for field, value in said.get(part, {}).items()
    ]


def _region_line(spec: DatasetSpec, which: str, folder: Path, names: list[str]) -> str:
    region = find_region(spec, which)
    counted = "" if "vertices" in region.source else f"{len(region.indices)} vertices of "
    return f"{counted}{region.source}"

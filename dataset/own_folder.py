"""Your own data: a folder of recordings and captured meshes becomes a recipe.

    my_data/
      wav/<clip>.wav                any name, any rate; .flac, .mp3, .ogg as well
      vertices_npy/<clip>.npy       (frames, V*3) or (frames, V, 3) float, one topology
      templates.pkl                 neutral faces: {subject: (V, 3)}; or .npz, or a folder
                                    templates/ of <subject>.ply/.obj, or one template.ply/.obj
      dataset.json                  optional: settings, see own_settings.KEYS

What dataset.json does not set is inferred and printed: the unit from the size of the head, the
frame rate from the clips' lengths, the subject of a clip from its name, splits, regions, topology.
y is up and faces look along +z.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.frame_rates import stored_rate
from common.overrides import override
from common.paths import relative_to_project
from config import RECIPES, DatasetSpec, Recipe
from dataset.base_recipe import with_base
from dataset.clip_files import audio_files, mesh_files
from dataset.own_inference import (
    check_templates,
    shortened,
    splits_of,
    subjects_of,
    unit_of,
)
from dataset.own_rates import frame_rates
from dataset.own_settings import read_settings, recipe_settings
from dataset.regions import Region, look_up
from files.arrays import load_npy, load_npz
from files.listing import list_files, on_disk
from files.meshes import MESH_SUFFIXES, load_mesh, load_templates

DEFAULT_BASE = "vocaset"  # the paper's network
SMALLER = " (the paper's; --base synthetic: a small network with its encoder included)"
TEMPLATES = ("templates.pkl", "templates.npz", "templates", *(
    f"{name}{suffix}" for name in ("template", "templates") for suffix in MESH_SUFFIXES
))  # fmt: skip
CLIPS_SAMPLED, FRAMES_SAMPLED = 8, 24  # to see whether the lips move
REGION_FILES = {"lips": "lips_region", "upper": "upper_region", "inner_lips": "inner_lips"}
REGION_SUFFIXES = (".txt", ".npy", ".pkl")


def read_folder(folder: Path, base: str | None = None) -> tuple[Recipe, dict[str, str]]:
    """The recipe of a folder of own data, and facts about the data for `lines_of`: name -> text.

    base: name of a recipe; takes precedence over that of dataset.json. Raises `UserError` naming
    the file that does not fit.
    """
    settings = read_settings(folder / "dataset.json")
    base = base or settings.get("base", DEFAULT_BASE)
    if base not in RECIPES:
        raise UserError(f"base {base}: no such recipe; config.py has {', '.join(RECIPES)}")
    spec, facts = _read_data(folder, settings)
    recipe = override(with_base(spec, RECIPES[base]), recipe_settings(folder, settings))
    if "wav2vec2" in settings:
        local = folder / settings["wav2vec2"]
        source = relative_to_project(local) if local.is_dir() else settings["wav2vec2"]
        recipe = dataclasses.replace(recipe, wav2vec2=source)
    lips = look_up(spec, "lips")[0]
    facts |= {
        "lips": _described(lips),
        "upper face": _described(look_up(spec, "upper")[0]),
        "topology": spec.topology or "none: videos need topology.ply or .obj with the triangles",
        "recipe": base + SMALLER * (base == DEFAULT_BASE),
    }
    if warning := static_lips(spec, lips, folder):
        facts["warning"] = warning
    return recipe, facts


def lines_of(facts: dict[str, str]) -> list[str]:
    """The facts of a folder as aligned lines, with a warning at the end if there is one."""
    aligned = [f"  {name:<11}{text}" for name, text in facts.items() if name != "warning"]
    return aligned + ([f"warning: {facts['warning']}"] if "warning" in facts else [])


def _read_data(folder: Path, settings: dict[str, Any]) -> tuple[DatasetSpec, dict[str, str]]:
    """The spec of the data, and facts to print: name -> text."""
    names = clip_names(folder)
    path = _templates_path(folder, settings)
    templates = load_templates(path)
    check_templates(path, templates)
    mean = np.mean(list(templates.values()), axis=0)
    metres, unit = unit_of(mean, settings.get("metres_per_unit"))
    rates = frame_rates(folder, names, settings)
    subjects = subjects_of(names, path, tuple(templates))
    splits, how = splits_of(subjects, settings)
    name = folder.resolve().name
    spec = DatasetSpec(
        name=f"{name} (own)" if name in RECIPES else name,
        root=relative_to_project(folder),
        fps=rates.fps,
        source_fps=stored_rate(rates.source),
        max_drift_s=rates.max_drift_s,
        n_vertices=len(mean),
        metres_per_unit=metres,
        templates=relative_to_project(path),
        topology=_topology(folder, path, len(mean), settings),
        splits=splits,
        **_region_files(folder, settings),
    )
    sizes = ", ".join(f"{len(split.clips)} {name}" for name, split in splits.items())
    people = sorted(set(subjects.values()))
    return spec, {
        "clips": f"{len(names)}: {sizes} ({how})",
        "subjects": f"{len(people)}: {shortened(people)}",
        "vertices": f"{len(mean)}, {unit}",
        "frames": rates.text,
    }


def clip_names(folder: Path) -> list[str]:
    """Names of the clips; `UserError` for one that lacks its audio or its vertices."""
    for part in ("wav", "vertices_npy"):
        if not (folder / part).is_dir():
            raise UserError(
                f"{folder}: no folder {part}/, expected wav/<clip>.wav, vertices_npy/<clip>.npy "
                "and templates"
            )
    audio, meshes = audio_files(folder), mesh_files(folder)
    for files, partners, partner in (
        (audio, meshes, "vertices_npy/{}.npy"),
        (meshes, audio, "wav/{}.wav"),
    ):
        alone = sorted(files.keys() - partners.keys())
        if alone:
            more = f" ({len(alone)} clips lack theirs)" if len(alone) > 1 else ""
            close = difflib.get_close_matches(alone[0], partners.keys() - files.keys())
            hint = f"; {partners[close[0]].name} has no partner either" if close else ""
            raise UserError(f"{files[alone[0]]}: no {partner.format(alone[0])} for it{more}{hint}")
    if len(meshes) < 3:
        clips = "1 clip" if len(meshes) == 1 else f"{len(meshes)} clips"
        raise UserError(
            f"{folder}: {clips}, expected at least 3 (train, val and test need one each)"
        )
    return sorted(meshes)


def _templates_path(folder: Path, settings: dict[str, Any]) -> Path:
    if "templates" in settings:
        return on_disk(folder / settings["templates"])
    if (path := _first_of(folder, TEMPLATES)) is not None:
        return path
    raise UserError(
        f"{folder}: no neutral faces, expected templates.pkl or .npz, a folder templates/ of "
        "<subject>.ply or .obj, or one template.ply or .obj for all clips"
    )


def _first_of(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of these files or folders that is there, with small or capital letters."""
    there = {path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True)}
    return next((there[name] for name in names if name in there), None)


def _region_files(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Fields of the spec for the region files of dataset.json or of the folder."""
    named = settings.get("regions", {})
    unknown = set(named) - set(REGION_FILES)
    if unknown:
        raise UserError(
            f'{folder}/dataset.json: no region "{min(unknown)}", expected {", ".join(REGION_FILES)}'
        )
    fields = {"lips_region": "", "upper_region": ""}
    for which, field in REGION_FILES.items():
        file = _first_of(folder, [f"{which}{suffix}" for suffix in REGION_SUFFIXES])
        path = on_disk(folder / named[which]) if which in named else file
        if path is not None:
            fields[field] = relative_to_project(path)
    return fields


def _topology(folder: Path, templates: Path, n_vertices: int, settings: dict[str, Any]) -> str:
    """A mesh with triangles: of dataset.json, topology.ply/.obj, or a template; "" if none."""
    if "topology" in settings:
        return relative_to_project(on_disk(folder / settings["topology"]))
    if templates.suffix.lower() == ".npz" and "faces" in load_npz(templates, "templates"):
        return relative_to_project(templates)
    topology = _first_of(folder, [f"topology{suffix}" for suffix in MESH_SUFFIXES])
    meshes = [topology] if topology else []
    meshes += list_files(templates, MESH_SUFFIXES) if templates.is_dir() else [templates]
    meshes += list_files(folder, MESH_SUFFIXES)
    for path in meshes:
        if path.suffix.lower() in MESH_SUFFIXES and path.is_file():
            vertices, faces = load_mesh(path)
            if len(vertices) == n_vertices and len(faces):
                return relative_to_project(path)
    return ""


def _described(region: Region) -> str:
    """A region in words, with its number of vertices."""
    if "vertices" in region.source:
        return region.source
    return f"{len(region.indices)} vertices of {region.source}"


def static_lips(spec: DatasetSpec, lips: Region, folder: Path) -> str:
    """The text of a warning if the lips move less than the average vertex; "" otherwise."""
    motion = np.zeros(spec.n_vertices)
    paths = list(mesh_files(folder).values())
    for path in paths[:: max(len(paths) // CLIPS_SAMPLED, 1)]:
        stored = load_npy(path, "vertices", mapped=True)
        frames = stored[:: max(len(stored) // FRAMES_SAMPLED, 1)]
        if frames.size == len(frames) * spec.n_vertices * 3:  # checked when the split is opened
            motion += frames.reshape(len(frames), -1, 3).std(axis=0).sum(axis=1)
    if motion[lips.indices].mean() >= motion.mean():
        return ""
    return (
        f"the lips ({lips.source}) move less than the average vertex; check that y is up "
        'and z forward, or list the lips\' vertices in lips.txt or under "regions" in dataset.json'
    )

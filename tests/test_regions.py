"""Regions: files by name, boxes on the real templates without files, and their messages."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from config import BIWI, BIWI_6, VOCASET, Box, DatasetSpec
from dataset import regions
from dataset.regions import about_nose, find_inner_lips, find_region, find_regions, inside
from files.meshes import load_region, load_templates

V = 8


@pytest.fixture
def spec(tmp_path: Path) -> DatasetSpec:
    """Eight vertices a metre apart on x, two of them in the recipe's box; no region files."""
    line = np.arange(V)[:, None] * [1.0, 0, 0]
    (tmp_path / "templates.pkl").write_bytes(pickle.dumps({"a": line, "b": line + 2}))
    return dataclasses.replace(
        VOCASET, root=str(tmp_path), other_roots=(), templates=str(tmp_path / "templates.pkl"),
        n_vertices=V, boxes={"lips": Box((2.5, -9, -9), (4.5, 9, 9))},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _no_warning_printed_yet() -> None:
    regions._warn_once.cache_clear()


def test_a_box_replaces_the_recipe_s_missing_file_with_one_warning(
    spec: DatasetSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        region = find_region(spec, "lips")
        assert region.indices.tolist() == [2, 3]  # of the mean template, 1 m further along x
        assert region.source == "2 vertices in a box on the mean template"
    warning = capsys.readouterr().err
    assert warning.startswith("warning: lips of vocaset: FLAME_masks.pkl is not in ")
    assert warning.count("\n") == 1 and region.source in warning
    of_b = dataclasses.replace(spec, boxes={"lips": dataclasses.replace(spec.boxes["lips"],
                                                                        subject="b")})  # fmt: skip
    assert find_region(of_b, "lips").indices.tolist() == [1, 2]


def test_a_file_named_by_the_user_is_found_by_name_or_an_error(
    spec: DatasetSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = dataclasses.replace(spec, lips_region="lve.txt")
    with pytest.raises(UserError, match="dataset.lips_region lve.txt: no such file, nor one of"):
        find_region(named, "lips")
    (tmp_path / "regions").mkdir()
    (tmp_path / "regions/lve.txt").write_text("5\n1\n")
    region = find_region(named, "lips")
    assert (region.indices.tolist(), region.source) == ([5, 1], "lve.txt")
    assert capsys.readouterr().err == ""


def test_inner_lips_are_a_region_if_the_data_set_has_them(
    spec: DatasetSpec, tmp_path: Path
) -> None:
    (tmp_path / "lips.txt").write_text("0 1")
    spec = dataclasses.replace(spec, lips_region="lips.txt", upper_region="lips.txt")
    assert list(find_regions(spec)) == ["lips", "upper"]
    (tmp_path / "inner.txt").write_text("6 5")
    inner_lips = find_regions(dataclasses.replace(spec, inner_lips="inner.txt"))["inner_lips"]
    assert (inner_lips.indices.tolist(), inner_lips.source) == ([6, 5], "inner.txt")
    with pytest.raises(UserError, match="none.txt: no such file"):
        find_regions(dataclasses.replace(spec, inner_lips="none.txt"))


def test_inner_lips_are_pairs_of_an_upper_and_a_lower_vertex(
    spec: DatasetSpec, tmp_path: Path
) -> None:
    spec = dataclasses.replace(spec, inner_lips="inner.txt")
    (tmp_path / "inner.txt").write_text("6 5 2 1")
    assert find_inner_lips(spec) == ([6, 2], [5, 1])
    for rows, n in (("6 5 2", 3), ("6 6", 2)):
        (tmp_path / "inner.txt").write_text(rows)
        with pytest.raises(UserError, match=f"inner.txt: {n} vertices, expected pairs: an upper"):
            find_inner_lips(spec)


def test_an_empty_box_is_an_error_with_a_remedy(spec: DatasetSpec) -> None:
    empty = dataclasses.replace(spec, boxes={"lips": Box((50, 0, 0), (60, 1, 1))})
    with pytest.raises(UserError, match="no vertex.*expected units of 1 m.*lips_region=FILE"):
        find_region(empty, "lips")
    with pytest.raises(ValueError, match="no region 'nose'"):
        find_region(spec, "nose")


FILES = {  # name in the data's folder -> place among the public files, entries
    "FLAME_masks.pkl:lips": ("FLAME_masks.pkl", 254),
    "lve.txt": ("regions/lve.txt", 428),
    "fdd.txt": ("regions/fdd.txt", 1_501),
    "FLAME_lips_idx.mat": ("masks/FLAME_lips_idx.mat", 371),
    "upper_mask.npy": ("masks/upper_mask.npy", 2_511),
}


@pytest.mark.parametrize("name", FILES)
def test_the_region_files_of_the_field_are_found_by_name(name: str, shared_data: Path) -> None:
    named = dataclasses.replace(VOCASET, root=str(shared_data / "vocaset"), lips_region=name)
    region = find_region(named, "lips")
    assert (region.source, len(region.indices)) == (name, FILES[name][1])


def overlap(indices: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Intersection over union, and recall of the true vertices."""
    both = np.intersect1d(indices, true).size
    return both / np.union1d(indices, true).size, both / np.unique(true).size


def test_the_box_of_biwi_6_is_the_release_s_758_vertices(shared_data: Path) -> None:
    templates = str(shared_data / "biwi6/templates.pkl")
    spec = dataclasses.replace(BIWI_6, templates=templates, other_roots=())
    true = load_region(shared_data / "biwi6/BIWI_lip.pkl", 3_895)
    assert sorted(find_region(spec, "lips").indices) == sorted(true) and len(true) == 758
    upper = load_region(shared_data / "biwi6/masks/upper_indices.npy", 3_895)
    assert overlap(find_region(spec, "upper").indices, upper)[0] > 0.85


def test_the_boxes_of_vocaset_and_biwi_cover_the_true_regions(shared_data: Path) -> None:
    templates = str(shared_data / "vocaset/templates")
    spec = dataclasses.replace(VOCASET, templates=templates, other_roots=())
    masks = shared_data / "vocaset"
    lips = load_region(masks / "FLAME_masks.pkl:lips", 5_023)
    union, recall = overlap(find_region(spec, "lips").indices, lips)
    assert union > 0.8 and recall > 0.95
    union, recall = overlap(
        find_region(spec, "upper").indices, load_region(masks / "regions/fdd.txt", 5_023)
    )
    assert union > 0.65 and recall > 0.8
    spec = dataclasses.replace(BIWI, templates=str(shared_data / "biwi/BIWI.ply"), other_roots=())
    for which, file in (("lips", "lve.txt"), ("upper", "fdd.txt")):
        true = load_region(shared_data / "biwi" / file, 23_370)
        union, recall = overlap(find_region(spec, which).indices, true)
        assert union > 0.75 and recall > 0.9


def test_the_box_about_the_nose_finds_the_lips_of_26_real_heads(shared_data: Path) -> None:
    flame = load_templates(shared_data / "vocaset/templates").values()
    lips = load_region(shared_data / "vocaset/FLAME_masks.pkl:lips", 5_023)
    biwi = load_templates(shared_data / "biwi6/templates.pkl").values()
    mouth = load_region(shared_data / "biwi6/masks/mouth_indices.npy", 3_895)
    for heads, true, least in ((flame, lips, (0.70, 0.97)), (biwi, mouth, (0.75, 0.80))):
        overlaps = [overlap(about_nose(head, "lips"), true) for head in heads]
        assert (np.mean(overlaps, axis=0) > least).all()
        assert np.min(overlaps, axis=0)[1] > 0.65


def test_a_box_is_closed_on_both_sides() -> None:
    cube = np.array([[0, 0, 0], [1, 1, 1], [1, 1, 1.01], [-0.01, 0, 0]])
    assert inside(cube, Box((0, 0, 0), (1, 1, 1))).tolist() == [0, 1]

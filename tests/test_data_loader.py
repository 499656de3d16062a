"""A fabricated data set: splits, items, batches, and the messages for files that do not fit."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from common.errors import UserError
from config import DatasetSpec, Split
from data_loader import MeshSpeechDataset, collate
from dataset.batch_loader import PlannedLoader
from dataset.batch_plan import BucketedBatches
from speech.timing import mesh_frames, samples_for

V = 7


@pytest.fixture
def spec(tmp_path: Path, rng: np.random.Generator) -> DatasetSpec:
    """A data set of 2 subjects x 3 sentences at 60 fps, 2.0 s to 2.5 s, one clip absent."""
    (tmp_path / "wav").mkdir()
    (tmp_path / "vertices_npy").mkdir()
    templates = {s: rng.normal(size=(V, 3)) for s in ("F1_TA", "M1_TA")}
    (tmp_path / "templates.pkl").write_bytes(pickle.dumps(templates))
    for i, subject in enumerate(templates):
        for number in (1, 2, 3):
            if (subject, number) == ("M1_TA", 3):
                continue
            frames = 120 + 10 * number + 5 * i
            name = f"{subject}_sentence{number:02d}"
            motion = np.arange(frames)[:, None, None] * 1e-3  # frame t at height t / 1000
            vertices = (templates[subject] + motion).astype(np.float32)
            np.save(tmp_path / "vertices_npy" / f"{name}.npy", vertices.reshape(frames, -1))
            audio = rng.normal(0, 0.1, frames * 22_000 // 60)
            soundfile.write(tmp_path / "wav" / f"{name}.wav", audio, 22_000)
    both = tuple(templates)
    return DatasetSpec(
        name="toy",
        root=str(tmp_path),
        fps=30,
        source_fps=60,
        n_vertices=V,
        metres_per_unit=1.0,
        templates=str(tmp_path / "templates.pkl"),
        topology="",
        lips_region="",
        upper_region="",
        splits={"train": Split(both, (1, 2)), "val": Split(("F1_TA",), (3,))},
    )


def test_a_split_holds_its_subjects_and_sentences(spec: DatasetSpec) -> None:
    assert [name for name, _ in MeshSpeechDataset(spec, "train").clips] == [
        "F1_TA_sentence01",
        "F1_TA_sentence02",
        "M1_TA_sentence01",
        "M1_TA_sentence02",
    ]
    assert MeshSpeechDataset(spec, "val").clips == [("F1_TA_sentence03", "F1_TA")]


def test_an_item_is_every_second_frame_with_its_audio(spec: DatasetSpec) -> None:
    item = MeshSpeechDataset(spec, "train")[0]
    audio, vertices = item["audio"], item["vertices"]
    stored = np.load(Path(spec.root) / "vertices_npy/F1_TA_sentence01.npy").reshape(-1, V, 3)
    assert (item["name"], item["subject"]) == ("F1_TA_sentence01", "F1_TA")
    assert (
        item["frames"] == len(vertices) == mesh_frames(len(audio), 30) == 64
    )  # of 65 in 130 / 60 s
    assert vertices.dtype == audio.dtype == np.float32
    np.testing.assert_array_equal(vertices, stored[::2][:64])
    np.testing.assert_allclose(vertices[0], item["template"], atol=1e-6)
    assert abs(audio.mean()) < 1e-5 and audio.var() == pytest.approx(1.0, abs=1e-3)


def test_sounds_equal_the_items_and_exist_only_for_whole_clips(spec: DatasetSpec) -> None:
    data = MeshSpeechDataset(spec, "train")
    sounds = data.sounds()
    assert len(sounds) == len(data)
    for (key, audio), item in zip(sounds, data, strict=True):
        assert key == item["key"]
        np.testing.assert_array_equal(audio, item["audio"])
    assert MeshSpeechDataset(spec, "train", crop_s=0.5).sounds() is None
    assert MeshSpeechDataset(spec, "train", augment=lambda audio, _: audio).sounds() is None


def test_longer_audio_is_cut_to_the_vertices(spec: DatasetSpec) -> None:
    path = Path(spec.root) / "vertices_npy/F1_TA_sentence03.npy"
    np.save(path, np.load(path)[:60])
    dataset = MeshSpeechDataset(spec, "val")
    assert dataset[0]["frames"] == 30
    assert len(dataset[0]["audio"]) == samples_for(30, 30)
    assert dataset.trims()["F1_TA_sentence03"] == pytest.approx(-1.5, abs=1e-3)
    assert "at most 1.50 s (F1_TA_sentence03: the audio too long)" in dataset.summary()


def test_vertices_may_be_stored_flat_or_not(spec: DatasetSpec) -> None:
    before = MeshSpeechDataset(spec, "val")[0]["vertices"]
    path = Path(spec.root) / "vertices_npy/F1_TA_sentence03.npy"
    np.save(path, np.load(path).reshape(-1, V, 3))
    np.testing.assert_array_equal(MeshSpeechDataset(spec, "val")[0]["vertices"], before)


def test_crops_keep_audio_and_vertices_together(spec: DatasetSpec) -> None:
    """The audio is a ramp over time and the vertices rise by frame: both give the instant."""
    root = Path(spec.root)
    n = 16_000 * 150 // 60
    ramp = (np.arange(n) / n).astype(np.float32)
    soundfile.write(root / "wav/F1_TA_sentence03.wav", ramp, 16_000, subtype="FLOAT")
    augmented = []
    dataset = MeshSpeechDataset(
        spec, "val", crop_s=1.0, augment=lambda audio, rng: augmented.append(audio) or audio, seed=3
    )
    starts = set()
    for epoch in range(12):
        dataset.set_epoch(epoch)
        item = dataset[0]
        first_s = float(augmented[-1][0]) * n / 16_000
        height = item["vertices"][0, 0, 1] - item["template"][0, 1]  # 60 fps frame / 1000
        assert first_s == pytest.approx(float(height) * 1000 / 60, abs=1e-4)
        assert len(item["audio"]) == 16_000
        assert item["frames"] == len(item["vertices"]) == mesh_frames(16_000, 30)
        starts.add(round(first_s, 3))
        np.testing.assert_array_equal(dataset[0]["audio"], item["audio"])
    assert len(starts) > 5


def test_augmented_audio_is_normalised_afterwards(spec: DatasetSpec) -> None:
    def louder(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return 5 * audio + rng.normal()

    audio = MeshSpeechDataset(spec, "val", augment=louder)[0]["audio"]
    assert abs(audio.mean()) < 1e-4 and audio.var() == pytest.approx(1.0, abs=1e-3)


def test_batches_are_padded_after_each_clip(spec: DatasetSpec) -> None:
    dataset = MeshSpeechDataset(spec, "train")
    items = [dataset[0], dataset[1]]
    batch = collate(items)
    frames, samples = batch["frames"].tolist(), batch["audio_samples"].tolist()
    assert frames == [len(item["vertices"]) for item in items] and frames[0] < frames[1]
    assert batch["vertices"].shape == (2, frames[1], V, 3)
    assert batch["audio"].shape == (2, samples[1])
    assert batch["template"].shape == (2, V, 3)
    for b, item in enumerate(items):
        np.testing.assert_array_equal(batch["vertices"][b, : frames[b]], item["vertices"])
        np.testing.assert_array_equal(batch["audio"][b, : samples[b]], item["audio"])
    assert (batch["vertices"][0, frames[0] :] == 0).all()
    assert (batch["audio"][0, samples[0] :] == 0).all()
    assert batch["names"] == ["F1_TA_sentence01", "F1_TA_sentence02"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_seed_gives_the_same_order_whatever_else_draws(workers: int, spec: DatasetSpec) -> None:
    clips = MeshSpeechDataset(spec, "train")

    def order(seed: int) -> list[str]:
        torch.rand(seed)  # the global generator must not matter
        plan = BucketedBatches(clips.lengths(), 1, seed)
        batches = PlannedLoader(clips, plan, collate, workers)
        names = []
        for epoch in range(3):
            batches.set_epoch(epoch)
            names += [batch["names"][0] for batch in batches]
        return names

    assert order(5) == order(5)
    assert order(5) != order(6)


def _remove(spec: DatasetSpec, name: str) -> None:
    (Path(spec.root) / name).unlink()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wav/F1_TA_sentence01.wav", "F1_TA_sentence01.wav: missing, its vertices exist"),
        ("vertices_npy/M1_TA_sentence02.npy", "M1_TA_sentence02.npy: missing, its audio exists"),
        ("templates.pkl", "templates.pkl: no such file"),
    ],
)
def test_a_missing_file_of_a_clip_is_named(name: str, message: str, spec: DatasetSpec) -> None:
    _remove(spec, name)
    with pytest.raises(UserError, match=message):
        MeshSpeechDataset(spec, "train")


def test_an_empty_data_set_names_the_expected_files(spec: DatasetSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="toy: no clip of split 'val'.*prepare the data first"):
        MeshSpeechDataset(replace(spec, root=str(tmp_path / "nowhere")), "val")
    biwi = {"val": Split(("F2", "F3"), (33, 34), "e")}
    with pytest.raises(UserError, match=r"expected wav/F2_e33\.wav, vertices_npy/F2_e33\.npy"):
        MeshSpeechDataset(replace(spec, root=str(tmp_path / "nowhere"), splits=biwi), "val")


def test_an_unknown_subject_or_topology_is_named(spec: DatasetSpec) -> None:
    path = Path(spec.templates)
    path.write_bytes(pickle.dumps({"M1_TA": np.zeros((V, 3))}))
    with pytest.raises(UserError, match="no subject 'F1_TA' for clip .*the file has M1_TA"):
        MeshSpeechDataset(spec, "val")
    path.write_bytes(pickle.dumps({"F1_TA": np.zeros((V + 1, 3))}))
    with pytest.raises(UserError, match="F1_TA has 8 vertices, expected 7 as in toy"):
        MeshSpeechDataset(spec, "val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored * 1000, "another scale or another mesh"),
        (lambda stored: stored[:, :-3], "shape .150, 18. of float32, expected .frames, 21."),
        (lambda stored: stored[:0], "expected .frames, 21."),
        (lambda stored: stored.astype(int), "of int64"),
    ],
)
def test_vertices_that_do_not_fit_are_named(
    change: Callable[[np.ndarray], np.ndarray], message: str, spec: DatasetSpec
) -> None:
    path = Path(spec.root) / "vertices_npy/F1_TA_sentence03.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(UserError, match=message) as caught:
        MeshSpeechDataset(spec, "val")
    assert "F1_TA_sentence03.npy" in str(caught.value)


def test_vertices_with_nan_are_named(spec: DatasetSpec) -> None:
    path = Path(spec.root) / "vertices_npy/F1_TA_sentence03.npy"
    stored = np.load(path)
    stored[77, 5] = np.nan
    stored[78, 5] = np.nan
    np.save(path, stored)
    with pytest.raises(UserError, match="F1_TA_sentence03.npy: NaN"):
        MeshSpeechDataset(spec, "val")[0]


def test_data_of_an_earlier_head_are_refused(spec: DatasetSpec, tmp_path: Path) -> None:
    templates = pickle.loads((tmp_path / "templates.pkl").read_bytes())
    moved = {name: face + [0, 0.002 / spec.metres_per_unit, 0] for name, face in templates.items()}
    np.savez(tmp_path / "head.npz", **{n: v.astype(np.float32) for n, v in templates.items()})
    MeshSpeechDataset(replace(spec, templates=str(tmp_path / "head.npz")), "train")
    np.savez(tmp_path / "head.npz", **{n: v.astype(np.float32) for n, v in moved.items()})
    with pytest.raises(UserError, match="differs by 2.0 mm .* an earlier head; prepare them again"):
        MeshSpeechDataset(replace(spec, templates=str(tmp_path / "head.npz")), "train")

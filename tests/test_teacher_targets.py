"""Teacher targets: computed once, cached, again where the cache lost them, always equal."""

from pathlib import Path

import pytest
import torch

from common.errors import UserError
from files.cache import Cache
from speech.bodies import build_ctc
from tests.toy import CLIPS, KEYS, LIPS, SOUNDS, TRAIN, clip, networks, together
from training.networks import Networks
from training.processes import Group
from training.step import Objective, batch_sizes
from training.teacher_targets import TargetSource, TeacherTargets
from wav2vec import TextTeacher

BATCH = together(*CLIPS) | {"keys": KEYS}
BF16 = torch.bfloat16


@pytest.fixture
def nets(tmp_path: Path) -> Networks:
    """Small networks whose teacher can be loaded again."""
    nets = networks()
    nets.teacher.model.save_pretrained(tmp_path / "encoder")
    nets.source = str(tmp_path / "encoder")
    return nets


def same(one: TeacherTargets, other: TeacherTargets) -> bool:
    tensors = [[targets.conv, targets.features, *targets.texts] for targets in (one, other)]
    return all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_cached_targets_need_no_teacher(nets: Networks, tmp_path: Path, dtype: torch.dtype) -> None:
    expected = TargetSource(networks(), None, dtype)(BATCH)
    targets = TargetSource(nets, str(tmp_path / "cache"), dtype)
    targets.precompute(SOUNDS, Group())
    assert nets.teacher.model is None and not list(nets.teacher.parameters())
    assert same(targets(BATCH), expected)
    losses = Objective(nets, LIPS, TRAIN)(BATCH, expected, batch_sizes(BATCH))
    losses["ctc"].backward()
    assert nets.teacher.model is None


def test_a_lost_cache_entry_loads_the_teacher_again(
    nets: Networks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = TargetSource(nets, str(tmp_path / "cache"), BF16)
    targets.precompute(SOUNDS, Group())
    expected = targets(BATCH)
    targets.cache._place("two features")[0].unlink()
    drawn = torch.get_rng_state()
    assert same(targets(BATCH), expected)
    assert torch.equal(torch.get_rng_state(), drawn)  # training draws as if nothing had happened
    lines = capsys.readouterr().err.splitlines()
    assert sum("loaded again" in line for line in lines) == 1
    assert "two features" in targets.cache
    other = clip(0.9, 9) | {"keys": ["a fourth"]}  # another clip than was filled in
    assert same(targets(other), TargetSource(networks(), None, BF16)(other))


def test_other_weights_in_the_folder_are_reported_in_one_line(
    nets: Networks, tmp_path: Path
) -> None:
    targets = TargetSource(nets, str(tmp_path / "cache"))
    targets.precompute(SOUNDS, Group())
    targets.cache._place("two text")[0].unlink()
    torch.manual_seed(5)
    changed = networks().teacher.model
    torch.nn.init.normal_(changed.lm_head.weight)
    changed.save_pretrained(nets.source)
    with pytest.raises(UserError, match="weights changed.*restore them") as caught:
        targets(BATCH)
    assert "\n" not in str(caught.value)


def test_the_teacher_stays_where_the_cache_is_full(
    nets: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("files.cache.KEEP_FREE_BYTES", 2**70)  # the disk is as good as full
    targets = TargetSource(nets, str(tmp_path / "cache"))
    targets.precompute(SOUNDS, Group())
    assert nets.teacher.model is not None
    bare = TargetSource(nets, None)
    bare.precompute(SOUNDS, Group())
    assert nets.teacher.model is not None
    assert same(targets(BATCH), bare(BATCH))


class Pair(Group):
    """One of two processes, without the other."""

    def gather(self, value: object) -> list:
        return [value, value]


def test_processes_compute_a_share_each_and_all_where_folders_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    real = TextTeacher.forward

    def counted(self, audio, *others):
        computed.append(audio.shape[1])
        return real(self, audio, *others)

    monkeypatch.setattr(TextTeacher, "forward", counted)
    lengths = [len(audio) for _, audio in SOUNDS]
    TargetSource(networks(), str(tmp_path / "a"), BF16).precompute(SOUNDS, Pair(1, 2))
    assert computed == [lengths[1], lengths[0], lengths[2]]  # its own first
    computed.clear()
    TargetSource(networks(), str(tmp_path / "a"), BF16).precompute(SOUNDS, Pair(0, 2))
    assert computed == []  # the folder has all
    TargetSource(networks(), str(tmp_path / "b"), BF16).precompute(SOUNDS[:1], Pair(1, 2))
    assert computed == lengths[:1]  # a rank without a share


def test_convolutions_that_are_not_shared_are_not_cached(tmp_path: Path) -> None:
    for trained, kinds in ((False, 3), (True, 2)):
        nets = networks()
        for parameter in nets.model.encoder.body.feature_extractor.parameters():
            parameter.requires_grad_(trained)
        targets = TargetSource(nets, str(tmp_path / str(trained)))
        batch_targets = targets(BATCH)
        assert (batch_targets.conv is None) is trained
        assert len(list(targets.cache.folder.glob("*.npy"))) == kinds * len(CLIPS)


def test_rounded_weights_give_the_same_bits() -> None:
    """Autocast rounds them in every call."""
    audio = together(*CLIPS)
    exact, lengths = networks().teacher, audio["audio_samples"]
    rounded = networks().teacher
    rounded.round_weights(BF16)
    for given in (None, lengths):
        with torch.autocast("cpu", BF16):
            outputs = [t(audio["audio"], given) for t in (exact, rounded)]
        assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    sizes = [sum(p.nbytes for p in t.parameters()) for t in (exact, rounded)]
    linear = sum(p.numel() for m in exact.modules() if isinstance(m, torch.nn.Linear)
                 for p in m.parameters())  # fmt: skip
    assert sizes[0] - sizes[1] == 2 * linear


def test_damaged_cache_entries_are_computed_again(nets: Networks, tmp_path: Path) -> None:
    targets = TargetSource(nets, str(tmp_path / "cache"))
    targets.precompute(SOUNDS, Group())
    expected = targets(BATCH)
    path = targets.cache._place("one conv")[0]
    path.write_bytes(path.read_bytes()[:-50])
    assert isinstance(targets.cache, Cache) and "one conv" in targets.cache
    assert same(targets(BATCH), expected)


def test_a_teacher_without_a_head_is_freed_too(tmp_path: Path) -> None:
    nets = networks()
    nets.teacher = TextTeacher(build_ctc(nets.teacher.model.config))
    nets.teacher.model.lm_head = None
    targets = TargetSource(nets, str(tmp_path / "cache"))
    targets.precompute(SOUNDS, Group())
    assert nets.teacher.model is None
    assert all(len(text) == 0 for text in targets(BATCH).texts)


def test_cached_features_of_other_frozen_weights_are_refused() -> None:
    nets, batch = networks(), together(*CLIPS)
    batch["conv"] = nets.teacher.convolve(batch["audio"], batch["audio_samples"])
    given = TargetSource(nets, None)(batch)
    assert torch.equal(given.conv, batch["conv"])
    with torch.no_grad():
        next(nets.model.encoder.body.feature_extractor.parameters()).add_(1e-3)
    with pytest.raises(UserError, match="the features of takes are cached with its frozen weights"):
        TargetSource(nets, None)(batch)

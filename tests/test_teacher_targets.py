"""The teacher: heard once, let go, back when the cache has lost something, never different."""

from pathlib import Path

import pytest
import torch

from common.errors import UserError
from files.cache import Cache
from speech.bodies import build_ctc
from tests.toy import CLIPS, KEYS, LIPS, SOUNDS, TRAIN, clip, networks, together
from training.networks import Networks
from training.objective import losses_of
from training.processes import Group
from training.teacher_targets import Heard, Hearing
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


def same(one: Heard, other: Heard) -> bool:
    tensors = [[heard.conv, heard.features, *heard.texts] for heard in (one, other)]
    return all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_a_teacher_that_was_let_go_is_not_missed(
    nets: Networks, tmp_path: Path, dtype: torch.dtype
) -> None:
    wanted = Hearing(networks(), None, dtype)(BATCH)
    hearing = Hearing(nets, str(tmp_path / "cache"), dtype)
    hearing.fill(SOUNDS, Group())
    assert nets.teacher.model is None and not list(nets.teacher.parameters())
    assert same(hearing(BATCH), wanted)
    losses_of(nets, BATCH, LIPS, TRAIN, wanted)["ctc"].backward()
    assert nets.teacher.model is None


def test_a_lost_entry_wakes_the_teacher(
    nets: Networks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hearing = Hearing(nets, str(tmp_path / "cache"), BF16)
    hearing.fill(SOUNDS, Group())
    wanted = hearing(BATCH)
    hearing.cache._place("two features")[0].unlink()
    drawn = torch.get_rng_state()
    assert same(hearing(BATCH), wanted)
    assert torch.equal(torch.get_rng_state(), drawn)  # training draws as if nothing had happened
    said = capsys.readouterr().err.splitlines()
    assert sum("loaded again" in line for line in said) == 1
    assert "two features" in hearing.cache
    other = clip(0.9, 9) | {"keys": ["a fourth"]}  # another clip than was filled in
    assert same(hearing(other), Hearing(networks(), None, BF16)(other))


def test_other_weights_in_the_folder_are_one_line(nets: Networks, tmp_path: Path) -> None:
    hearing = Hearing(nets, str(tmp_path / "cache"))
    hearing.fill(SOUNDS, Group())
    hearing.cache._place("two text")[0].unlink()
    torch.manual_seed(5)
    changed = networks().teacher.model
    torch.nn.init.normal_(changed.lm_head.weight)
    changed.save_pretrained(nets.source)
    with pytest.raises(UserError, match="weights changed.*put them back") as caught:
        hearing(BATCH)
    assert "\n" not in str(caught.value)


def test_a_cache_that_keeps_nothing_keeps_the_teacher(
    nets: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("files.cache.KEEP_FREE_BYTES", 2**70)  # the disk is as good as full
    hearing = Hearing(nets, str(tmp_path / "cache"))
    hearing.fill(SOUNDS, Group())
    assert nets.teacher.model is not None
    bare = Hearing(nets, None)
    bare.fill(SOUNDS, Group())
    assert nets.teacher.model is not None
    assert same(hearing(BATCH), bare(BATCH))


class Pair(Group):
    """Of two processes the second, where nobody waits for the other."""

    def gather(self, value: object) -> list:
        return [value, value]


def test_ranks_hear_a_share_each_and_all_where_folders_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []
    real = TextTeacher.forward

    def counted(self, audio, *others):
        heard.append(audio.shape[1])
        return real(self, audio, *others)

    monkeypatch.setattr(TextTeacher, "forward", counted)
    lengths = [len(audio) for _, audio in SOUNDS]
    Hearing(networks(), str(tmp_path / "a"), BF16).fill(SOUNDS, Pair(1, 2))
    assert heard == [lengths[1], lengths[0], lengths[2]]  # its own first
    heard.clear()
    Hearing(networks(), str(tmp_path / "a"), BF16).fill(SOUNDS, Pair(0, 2))
    assert heard == []  # the folder has all
    Hearing(networks(), str(tmp_path / "b"), BF16).fill(SOUNDS[:1], Pair(1, 2))
    assert heard == lengths[:1]  # a rank without a share


def test_convolutions_that_are_not_shared_are_not_kept(tmp_path: Path) -> None:
    for trained, kinds in ((False, 3), (True, 2)):
        nets = networks()
        for parameter in nets.model.encoder.body.feature_extractor.parameters():
            parameter.requires_grad_(trained)
        hearing = Hearing(nets, str(tmp_path / str(trained)))
        heard = hearing(BATCH)
        assert (heard.conv is None) is trained
        assert len(list(hearing.cache.folder.glob("*.npy"))) == kinds * len(CLIPS)


def test_weights_held_in_bfloat16_hear_the_same_bits() -> None:
    """Autocast rounds them in every call."""
    audio = together(*CLIPS)
    exact, lengths = networks().teacher, audio["audio_samples"]
    rounded = networks().teacher
    rounded.round_weights(BF16)
    for given in (None, lengths):
        with torch.autocast("cpu", BF16):
            wanted, found = (t(audio["audio"], given) for t in (exact, rounded))
        assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    sizes = [sum(p.nbytes for p in t.parameters()) for t in (exact, rounded)]
    linear = sum(p.numel() for m in exact.modules() if isinstance(m, torch.nn.Linear)
                 for p in m.parameters())  # fmt: skip
    assert sizes[0] - sizes[1] == 2 * linear


def test_damaged_entries_are_heard_again(nets: Networks, tmp_path: Path) -> None:
    hearing = Hearing(nets, str(tmp_path / "cache"))
    hearing.fill(SOUNDS, Group())
    wanted = hearing(BATCH)
    path = hearing.cache._place("one conv")[0]
    path.write_bytes(path.read_bytes()[:-50])
    assert isinstance(hearing.cache, Cache) and "one conv" in hearing.cache
    assert same(hearing(BATCH), wanted)


def test_a_teacher_without_a_head_is_let_go_too(tmp_path: Path) -> None:
    nets = networks()
    nets.teacher = TextTeacher(build_ctc(nets.teacher.model.config))
    nets.teacher.model.lm_head = None
    hearing = Hearing(nets, str(tmp_path / "cache"))
    hearing.fill(SOUNDS, Group())
    assert nets.teacher.model is None
    assert all(len(text) == 0 for text in hearing(BATCH).texts)

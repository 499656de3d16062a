"""A frozen encoder with a phone head as the lip reader's teacher."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import main
from common.errors import UserError, run_cli
from config import Recipe
from speech.phone_head import PHONE_HEAD_FILE, PhoneHead
from speech.pretrained import encoder_of, load_pretrained
from synthetic.phones import PHONES
from synthetic.pretrain_encoder import HEAD, save
from tests.toy import moonshine_folder, run_toy
from wav2vec import TextTeacher

N_FRAMES, N_STATES, WIDTH = 13, 3, 16


def random_head() -> PhoneHead:
    """A head for `moonshine_folder`'s encoder whose logits differ clearly."""
    torch.manual_seed(0)
    head = PhoneHead(N_STATES, WIDTH, len(PHONES), **HEAD).eval()
    torch.nn.init.normal_(head.mix)
    torch.nn.init.normal_(head.to_phones.weight)
    return head


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A tiny untrained encoder with a phone head on disk."""
    (tmp_path / "plain").mkdir()
    save(Path(moonshine_folder(tmp_path / "plain")), tmp_path / "phones", random_head(), {})
    return str(tmp_path / "phones")


def test_the_head_of_moonshine_has_less_than_600_000_parameters() -> None:
    head = PhoneHead(7, 288, len(PHONES), **HEAD)
    assert sum(p.numel() for p in head.parameters()) < 600_000


def test_padding_changes_no_logits() -> None:
    head = random_head()
    latents, mask = torch.randn(2, N_FRAMES, WIDTH), torch.ones(2, N_FRAMES, dtype=torch.bool)
    mask[1, 7:] = False
    with torch.no_grad():
        together, alone = head(latents, mask), head(latents[1:, :7])
    torch.testing.assert_close(together[1, :7], alone[0], atol=1e-5, rtol=1e-4)


def test_latents_are_the_weighted_mean_of_normalised_states() -> None:
    states, head = torch.randn(1, N_FRAMES, N_STATES, WIDTH), random_head()
    expected = torch.einsum("bnlc,l->bnc", F.layer_norm(states, (WIDTH,)), head.mix.softmax(0))
    torch.testing.assert_close(head.latents(states), expected)


def test_the_teacher_reads_phones_at_50_hz(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They are those of the head, in half precision, on the states at the audio frames."""
    teacher = TextTeacher(load_pretrained(folder))
    assert not capsys.readouterr().err
    assert (teacher.width, teacher.n_characters, teacher.blank) == (WIDTH, len(PHONES), 0)
    audio = torch.randn(1, 8_000)
    features, logits = teacher(audio)
    states = teacher.kind.at_audio_rate(teacher.convolve(audio), 8_000, None)
    expected = random_head().half().float().latents(states.unflatten(-1, (N_STATES, WIDTH)))
    assert features.shape == (1, 24, WIDTH) and logits.shape == (1, 24, len(PHONES))
    torch.testing.assert_close(features, expected)
    with torch.no_grad():
        torch.testing.assert_close(logits, random_head().half().float()(expected))


def test_a_padded_clip_has_the_text_that_it_has_alone(folder: str) -> None:
    teacher = TextTeacher(load_pretrained(folder))
    audio, lengths = torch.randn(2, 16_000), torch.tensor([16_000, 7_777])
    audio[1, 7_777:] = 0
    features, logits = teacher(audio, lengths)
    for i, n in enumerate(lengths.tolist()):
        alone = teacher(audio[i : i + 1, :n])
        for together, apart in zip((features, logits), alone, strict=True):
            together = together[i, : apart.shape[1]]
            torch.testing.assert_close(together, apart[0], atol=1e-3, rtol=1e-4)


def test_rounded_weights_give_the_same_bits(folder: str) -> None:
    teacher, audio = TextTeacher(load_pretrained(folder)), torch.randn(1, 8_000)
    with torch.autocast("cpu", torch.bfloat16):
        before = teacher(audio)
        teacher.round_weights(torch.bfloat16)
        assert all(map(torch.equal, before, teacher(audio)))


def test_the_network_takes_only_the_encoder_from_the_folder(folder: str, tmp_path: Path) -> None:
    assert encoder_of(folder, {}) == encoder_of(str(tmp_path / "plain"), {})


def test_a_head_in_the_config_without_its_file_is_reported_in_one_line(folder: str) -> None:
    (Path(folder) / PHONE_HEAD_FILE).unlink()
    with pytest.raises(UserError, match=f"cannot be loaded.*{PHONE_HEAD_FILE}") as caught:
        load_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_error_rates_of_the_lips_are_in_phones(recipe: Recipe, folder: str) -> None:
    """Training with the teacher's text and `--mode test`; the cache gives the same text."""
    flags = ("--encoder", folder, "--cache", "cache", "--set", "train.w_ctc=0.1")
    assert run_toy("--out", "run", *flags) == 0
    test = ["--dataset", "toy", "--mode", "test", "--checkpoint", "run/best.safetensors"]
    assert run_cli(main.main, [*test, "--out", "run"]) == 0
    results = json.loads(Path("run/results.json").read_text())
    assert results["total"]["cer"] > 0 and results["total"]["characters"] > 0
    for clip in results["clips"]:
        assert set(clip["teacher_text"].split()) <= set(PHONES)

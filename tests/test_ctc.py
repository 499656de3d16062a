"""CTC on a CPU, by the kernels of `training.ctc_kernels`, against torch's in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.losses import ctc_loss

K = 7  # characters with the blank


def gradient_of(loss: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def ours(
    logits: Tensor, texts: list[Tensor], lengths: Tensor, blank: int = 0, clips: int | None = None
) -> tuple[Tensor, Tensor]:
    """Loss () and gradient (B, T, K)."""
    logits = logits.clone().requires_grad_()
    return gradient_of(ctc_loss(logits, texts, lengths, blank, clips), logits)


def torchs(
    logits: Tensor, texts: list[Tensor], lengths: Tensor, blank: int = 0, clips: int | None = None
) -> tuple[Tensor, Tensor]:
    """The same by torch in float64, as float32."""
    logits = logits.double().requires_grad_()
    sizes = torch.tensor([len(text) for text in texts])
    each = F.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1), torch.cat(texts), lengths, sizes, blank, "none",
        zero_infinity=True,
    )  # fmt: skip
    loss = (each / sizes.clamp(min=1)).sum() / (clips or len(texts))
    return tuple(x.float() for x in gradient_of(loss, logits))


def random_texts(sizes: list[int], blank: int, n_characters: int = K) -> list[Tensor]:
    """Texts of these lengths, with repeated characters, without the blank."""
    characters = torch.tensor([k for k in range(n_characters) if k != blank])
    return [characters[torch.randint(len(characters), (size,))] for size in sizes]


def assert_as_torch(*arguments: Tensor | list[Tensor] | int) -> None:
    results = ours(*arguments), torchs(*arguments)
    torch.testing.assert_close(*results, atol=2e-7, rtol=2e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1.0, 5.0, 50.0])  # 50: only few alignments count
@pytest.mark.parametrize("blank", [0, 3, K - 1])
def test_loss_and_gradient_equal_torchs(scale: float, blank: int, seed: int) -> None:
    torch.manual_seed(seed)
    frames = 13 + 10 * seed
    lengths = torch.tensor([frames, frames - 2, 1, frames])
    texts = random_texts([frames // 3, 5, 1, 0], blank)
    assert_as_torch(scale * torch.randn(4, frames, K), texts, lengths, blank, 11)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_peaked_logits_for_and_against_a_text_equal_torchs(sign: float) -> None:
    """Against it, the states of a frame differ by e^6000: more than float64 can express."""
    torch.manual_seed(0)
    (text,) = random_texts([61], blank=0)
    logits = torch.full((1, 3 * len(text), K), -sign * 50.0)
    logits[:, :, 0] = 50.0
    for i, k in enumerate(text.tolist()):
        logits[0, 3 * i, 0], logits[0, 3 * i, k] = -sign * 50.0, sign * 50.0
    assert_as_torch(logits, [text], torch.tensor([3 * len(text)]))


def test_a_long_clip_with_blanks_nearly_everywhere_equals_torchs() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 700, 32)
    logits[:, :, 0] += 30.0
    assert_as_torch(logits, random_texts([200], 0, 32), torch.tensor([700]))


def test_texts_as_long_as_their_clips_allow_equal_torchs() -> None:
    torch.manual_seed(0)
    texts = [torch.tensor(text) for text in ([1, 2, 1, 2, 3], [1, 1, 2, 2], [4, 4, 4])]
    lengths = torch.tensor([5, 6, 5])
    assert_as_torch(torch.randn(3, 6, K), texts, lengths)


def test_a_text_longer_than_its_clip_allows_has_loss_and_gradient_zero() -> None:
    torch.manual_seed(0)
    logits, possible = torch.randn(4, 6, K), torch.tensor([1, 2])
    texts = [possible, torch.tensor([1, 2, 3]), torch.tensor([4, 4]), possible]
    lengths = torch.tensor([6, 2, 2, 0])
    loss, gradient = ours(logits, texts, lengths)
    alone, _ = ours(logits[:1], [possible], lengths[:1])
    torch.testing.assert_close(loss, alone / 4, atol=0, rtol=1e-6)
    assert not gradient[1:].any()
    assert_as_torch(logits[:3], texts[:3], lengths[:3])


def test_a_character_of_probability_zero_makes_a_text_impossible() -> None:
    logits = torch.zeros(1, 5, K)
    logits[:, :, 2] = -math.inf
    loss, gradient = ours(logits, [torch.tensor([1, 2])], torch.tensor([5]))
    assert loss == 0
    assert not gradient.any()
    loss, gradient = ours(logits, [torch.tensor([1, 3])], torch.tensor([5]))
    expected = torchs(logits.clamp(min=-1e4), [torch.tensor([1, 3])], torch.tensor([5]))
    torch.testing.assert_close((loss, gradient), expected, atol=1e-6, rtol=1e-6)


def test_one_character_in_two_frames_by_hand() -> None:
    """P(blank) = 1/4, P(1) = 3/4: the alignments 11, 1-, -1 have 9/16 + 3/16 + 3/16 = 15/16.

    The character is at frame 0 in 12 of 15 parts, so the gradient of its logit is 3/4 - 12/15.
    """
    logits = torch.tensor([[[0.0, math.log(3.0)]] * 2])
    loss, gradient = ours(logits, [torch.tensor([1])], torch.tensor([2]))
    assert loss.item() == pytest.approx(-math.log(15 / 16), rel=1e-6)
    expected = torch.tensor([[[0.05, -0.05]] * 2])
    torch.testing.assert_close(gradient, expected, atol=1e-7, rtol=1e-6)


def test_padded_frames_change_nothing_and_have_no_gradient() -> None:
    torch.manual_seed(0)
    logits, texts, lengths = torch.randn(2, 9, K), random_texts([3, 2], 0), torch.tensor([9, 5])
    loss, gradient = ours(logits, texts, lengths)
    assert not gradient[1, 5:].any()
    logits[1, 5:] = math.nan
    same_loss, same_gradient = ours(logits, texts, lengths)
    assert torch.equal(loss, same_loss)
    assert torch.equal(gradient, same_gradient)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_give_nan(value: float) -> None:
    logits = torch.zeros(1, 3, K)
    logits[0, 1, 5] = value
    loss, gradient = ours(logits, [torch.tensor([1])], torch.tensor([3]))
    assert loss.isnan()
    assert gradient.isnan().all()


def test_without_any_character_loss_and_gradient_are_zero() -> None:
    empty = torch.tensor([], dtype=torch.long)
    loss, gradient = ours(torch.randn(2, 3, K), [empty, empty], torch.tensor([3, 2]))
    assert loss == 0
    assert not gradient.any()


def test_results_do_not_depend_on_threads_or_on_other_clips(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    logits, texts = torch.randn(5, 41, K), random_texts([11, 2, 17, 0, 5], 0)
    lengths = torch.tensor([41, 37, 41, 40, 29])
    results = []
    for n_threads in (1, 2, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        results.append(ours(logits, texts, lengths))
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])
    _, alone = ours(logits[2:3], texts[2:3], lengths[2:3], 0, clips=5)
    assert torch.equal(alone[0], results[0][1][2])


def test_bfloat16_logits_have_the_loss_of_their_values_in_float32() -> None:
    torch.manual_seed(0)
    half = torch.randn(1, 9, K).bfloat16()
    arguments = random_texts([3], 0), torch.tensor([9])
    (loss, gradient), expected = ours(half, *arguments), ours(half.float(), *arguments)
    assert gradient.dtype == torch.bfloat16
    assert torch.equal(loss, expected[0])
    assert torch.equal(gradient, expected[1].bfloat16())


@pytest.mark.parametrize(
    "texts, lengths, message",
    [
        ([[1], [2]], [4, 3], "expected lengths from 0 to 3, got [4, 3]"),
        ([[1], [K]], [3, 3], f"expected characters from 0 to {K - 1}, got 1 to {K}"),
        ([[1]], [3], "expected 2 lengths and texts, got 1, 1"),
    ],
)
def test_what_does_not_fit_the_logits_is_refused(
    texts: list[list[int]], lengths: list[int], message: str
) -> None:
    with pytest.raises(ValueError) as error:
        ours(torch.zeros(2, 3, K), [torch.tensor(t) for t in texts], torch.tensor(lengths))
    assert str(error.value) == message

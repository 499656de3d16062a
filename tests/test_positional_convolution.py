"""The positional convolution by spectra, against torch's."""

import pytest
import torch

from speech.bodies import build_body
from speech.positional_convolution import PositionalConvolution
from tests.toy import ENCODERS


def built(taps: int, groups: int) -> PositionalConvolution:
    """A convolution of 32 channels, in evaluation mode."""
    torch.manual_seed(0)
    sizes = {"num_conv_pos_embeddings": taps, "num_conv_pos_embedding_groups": groups}
    body = build_body(ENCODERS["layer"] | sizes | {"model_type": "wav2vec2"}).eval()
    convolution = body.encoder.pos_conv_embed
    torch.nn.init.normal_(convolution.conv.bias)
    return convolution


@pytest.mark.parametrize(("taps", "groups"), [(128, 16), (16, 1), (13, 4), (1, 2)])
@pytest.mark.parametrize("n_frames", [1, 17, 129, 300])
def test_it_equals_torchs_for_odd_and_even_taps(taps: int, groups: int, n_frames: int) -> None:
    convolution, x = built(taps, groups), torch.randn(2, n_frames, 32)
    expected = convolution(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(convolution(x), expected, atol=2e-6, rtol=1e-5)
    assert convolution._kept is not None


def test_weights_get_their_norm_once_until_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    convolution, x, calls = built(16, 2), torch.randn(1, 20, 32), []
    real = PositionalConvolution.forward.__globals__["spectra_of"]
    name = "speech.positional_convolution.spectra_of"
    monkeypatch.setattr(name, lambda conv: calls.append(1) or real(conv))
    norms = convolution.conv.parametrizations.weight.original0
    with torch.no_grad():
        first = convolution(x)
        assert torch.equal(convolution(x), first) and len(calls) == 1
        norms.mul_(2)
        doubled = convolution(x)
        assert len(calls) == 2 and not torch.equal(doubled, first)
        norms.numpy()[:] = 0  # torch does not notice this; training does it, too
        convolution.train().eval()
        assert not torch.equal(convolution(x), doubled) and len(calls) == 3
        torch.testing.assert_close(
            convolution(x), convolution.activation(convolution.conv.bias).expand(1, 20, 32)
        )


def test_training_and_gradients_use_torchs() -> None:
    convolution, x = built(16, 2), torch.randn(1, 20, 32)
    convolution(x).sum().backward()
    assert convolution.conv.parametrizations.weight.original1.grad is not None
    with torch.no_grad():
        convolution.train()(x)
        with torch.autocast("cpu", torch.bfloat16):
            convolution.eval()(x)
    assert convolution._kept is None

"""CodeTalker's decoder (Xing et al., CVPR 2023, arXiv 2301.02379): codes of a motion prior.

Stage 1, the share `prior_share` of a run's steps, trains a vector-quantised autoencoder of the
motion: an encoder, a codebook, a decoder (paper, section 3.1). Stage 2 keeps the three as they are
and trains an autoregressive decoder from speech and style to the encoder's features; quantised,
they are decoded to motion (section 3.2). Its layer is FaceFormer's.

Losses: stage 1, the recipe's losses on the reconstruction and the two terms of the codebook
(VQ-VAE, arXiv 1711.00937, equation 3, beta 0.25); stage 2, the distance of the predicted features
to the quantised true ones, and the recipe's losses on the motion, whose gradient passes the
quantiser unchanged. The codebook's terms and the distance are the decoder's own loss, of weight
w_code.

Sizes of the original are those of the released code (github.com/Doubiiu/CodeTalker: config/,
models/). Codebook: 256 codes; a frame has 16 codes of 64 numbers for VOCASET, 8 of 128 for BIWI.
Stage 1: encoder and decoder have a convolution of kernel 5 with LeakyReLU and instance
normalisation and 6 Transformer layers each (pre-norm, width 1024, 8 heads, feed-forward 1536);
AdamW, 200 epochs; mean absolute error of the vertices plus the codebook's terms. Stage 2: 6 layers
for VOCASET, 12 for BIWI (width 1024, 4 heads, feed-forward 2048, dropout 0.1); Adam, 100 epochs;
squared error of the vertices plus that of the features, of equal weights. Both: 1e-4, one clip a
step.

Differences from the original: the networks are much smaller, with one Transformer layer each in
place of 6, and of 6 or 12; one run with two stages in place of two; the encoder is that of the
recipe; width, heads, feed-forward width and dropout are those of `ModelConfig`; with `vertex_rank`,
the motion is the vertex head's coefficients instead of all vertices; projection, final RMSNorm and
vertex head are JambaTalk's, and the latter two are trained in stage 2 as well; a frame has up to 16
codes of D / 16 numbers; the codes start within 1 instead of 1/256; the autoencoder's convolutions
have a residual and GELU, no instance normalisation, and its Transformer layers are post-norm; what
is fed back is the code vectors of the frame before instead of its decoded motion, true ones in
training (teacher forcing, as in the original). The vertex loss of stage 1 is squared and has the
weight w_vertex; the equal weights of the original's stage 2 need w_code = w_vertex. Long clips are
predicted in the windows of `JambaTalk.stream`. A subject that was not trained gets the mean of all
styles.
"""

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from baselines.biased_attention import BiasedDecoderLayer, periodic_positions, temporal_bias
from baselines.conditioning import ConditionedDecoder, Given, motion_width, n_styles
from config import ModelConfig

N_CODES = 256  # of the codebook, as in the original
PARTS = 16  # codes of a frame, if D is a multiple; the original's for VOCASET
COMMITMENT = 0.25  # beta
KERNEL = 5  # frames of the autoencoder's convolutions


class Quantiser(nn.Module):
    """A codebook; vectors (..., D) are replaced by the nearest codes, part by part."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_code = d_model // math.gcd(d_model, PARTS)
        self.codes = nn.Parameter(torch.empty(N_CODES, self.d_code).uniform_(-1, 1))

    def nearest(self, z: Tensor) -> Tensor:
        """The code vectors (..., D) nearest to z (..., D)."""
        parts = z.unflatten(-1, (-1, self.d_code)).float()
        index = torch.cdist(parts.flatten(0, -2)[None], self.codes.float()[None])[0].argmin(1)
        return self.codes[index].view_as(z)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, T, D), whose gradient passes to z unchanged, and the loss of frames (B, T)."""
        codes = self.nearest(z)
        to_codes, to_z = (codes - z.detach()).square(), (codes.detach() - z).square()
        loss = (to_codes + COMMITMENT * to_z).mean(2)
        return straight_through(z, codes), loss


def straight_through(z: Tensor, codes: Tensor) -> Tensor:
    """The values of `codes`, with a gradient that passes to z unchanged."""
    return z + (codes - z).detach()


class TemporalNetwork(nn.Module):
    """A convolution over neighbouring frames, then a Transformer layer over all of a clip."""

    def __init__(self, d_in: int, config: ModelConfig) -> None:
        super().__init__()
        c = config
        self.enter = nn.Linear(d_in, c.d_model)
        self.convolution = nn.Conv1d(c.d_model, c.d_model, KERNEL, padding=KERNEL // 2)
        self.layer = nn.TransformerEncoderLayer(
            c.d_model, c.n_heads, c.d_ff, c.dropout, batch_first=True
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B, T, d_in); mask: (B, T), False on padding. Returns (B, T, D)."""
        x = self.enter(x)
        if mask is not None:
            x = x * mask[..., None]
        x = x + nn.functional.gelu(self.convolution(x.mT)).mT
        x = x + periodic_positions(x.shape[1], x.shape[2], x.shape[1]).to(x)
        return self.layer(x, src_key_padding_mask=None if mask is None else ~mask)


class CodeTalkerDecoder(ConditionedDecoder):
    """A motion prior and the network that speaks in its codes."""

    needs_motion = True
    own_loss = "code"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config
        self.period, self.prior_share = c.fps, c.prior_share
        self.prior = nn.ModuleDict({
            "encode": TemporalNetwork(motion_width(c), c),
            "quantise": Quantiser(c.d_model),
            "decode": TemporalNetwork(c.d_model, c),
        })  # fmt: skip
        self.style = nn.Linear(n_styles(c), c.d_model, bias=False)
        self.code = nn.Linear(c.d_model, c.d_model)
        self.layer = BiasedDecoderLayer(c.d_model, c.n_heads, c.d_ff, self.period, c.dropout)
        self.feature = nn.Linear(c.d_model, c.d_model)
        self.progress = 0.0  # share of the steps of a training that are done

    def forward(
        self, x: Tensor, mask: Tensor | None, given: Given
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Outputs (B, T, D) of speech x (B, T, D), in training with the own loss (B,)."""
        if given.motion is None:
            return self.prior["decode"](self.predicted_codes(x, given.styles), mask)
        stage = self.reconstruct if self.progress < self.prior_share else self.forced
        y, loss = stage(x, mask, given)  # (B, T, D), (B, T)
        if mask is None:
            return y, loss.mean(1)
        return y, (loss * mask).sum(1) / mask.sum(1)

    def set_progress(self, share: float) -> None:
        """Stage 2 begins at the share `prior_share`."""
        self.progress = share

    def reconstruct(self, x: Tensor, mask: Tensor | None, given: Given) -> tuple[Tensor, Tensor]:
        """Stage 1: the true motion through the codes, and the codebook's loss."""
        z = self.prior["encode"](given.motion, mask)
        codes, loss = self.prior["quantise"](z)
        return self.prior["decode"](codes, mask), loss

    def forced(self, x: Tensor, mask: Tensor | None, given: Given) -> tuple[Tensor, Tensor]:
        """Stage 2: motion of features that are predicted from the true codes of earlier frames."""
        with torch.no_grad():
            true = self.prior["quantise"].nearest(self.prior["encode"](given.motion, mask))
        before = self.code(true[:, :-1]) + self.style(given.styles)[:, None]
        frames = torch.cat([self.style(given.styles)[:, None], before], dim=1)
        n_frames = x.shape[1]
        positions = periodic_positions(n_frames, x.shape[2], self.period).to(x)
        bias = temporal_bias(n_frames, self.period, self.layer.n_heads).to(x.device)
        z = self.feature(self.layer(frames + positions, x, bias)[0])
        loss = (z - true).square().mean(2)
        codes = straight_through(z, self.prior["quantise"].nearest(z).detach())
        frozen = {k: p.detach() for k, p in self.prior["decode"].named_parameters()}
        return functional_call(self.prior["decode"], frozen, (codes, mask)), loss

    def predicted_codes(self, x: Tensor, styles: Tensor) -> Tensor:
        """Code vectors (B, T, D) of speech x (B, T, D), each from those before it."""
        n_frames = x.shape[1]
        style = self.style(styles)[:, None]  # (B, 1, D)
        positions = periodic_positions(n_frames, x.shape[2], self.period).to(x)
        bias = temporal_bias(n_frames, self.period, self.layer.n_heads).to(x.device)
        frame, past, codes = style, None, []
        for t in range(n_frames):
            y, past = self.layer(
                frame + positions[t], x[:, t : t + 1], bias[:, t : t + 1, : t + 1], past
            )
            codes.append(self.prior["quantise"].nearest(self.feature(y)))
            frame = self.code(codes[-1]) + style
        return torch.cat(codes, dim=1)

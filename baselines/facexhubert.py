"""FaceXHuBERT's decoder (Haque and Yumak, ICMI 2023, arXiv 2303.05416): a GRU on speech features.

A GRU of two layers reads the features; its output is multiplied by an embedding of the subject and
goes to the vertex head. There is no attention and no feedback of motion.

Sizes of the original are those of the released code (github.com/galib360/FaceXHuBERT:
faceXhubert.py, main.py): two layers, width 256, dropout 0.3 between the layers, two HuBERT frames
folded into one, Adam (1e-4), one clip a step, 100 epochs. The code is for BIWI alone.

Differences from the original: the encoder is that of the recipe in place of HuBERT; its features
are projected to D first; the GRU has the decoder width D and the dropout of `ModelConfig`; the
second condition, a binary emotion label, is left out, since the data sets here have no such label;
the subject embedding starts at 1, so that a new subject's mean style is in its range; JambaTalk's
final RMSNorm stands before the vertex head. A subject that was not trained gets the mean of all
embeddings. The original's loss is a Huber loss of the vertices, which for errors below 1 is half
the vertex loss alone: w_velocity, w_latent, w_ctc and w_lips 0.
"""

from torch import Tensor, nn

from baselines.conditioning import ConditionedDecoder, Given, n_styles
from config import ModelConfig


class FaceXHuBERTDecoder(ConditionedDecoder):
    """Causal: frame t depends on the features of frames 0 to t."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config
        self.gru = nn.GRU(c.d_model, c.d_model, 2, batch_first=True, dropout=c.dropout)
        self.style = nn.Linear(n_styles(c), c.d_model, bias=False)
        nn.init.ones_(self.style.weight)

    def forward(self, x: Tensor, mask: Tensor | None, given: Given) -> Tensor:
        """Outputs (B, T, D) of speech x (B, T, D); padding lies behind all real frames."""
        return self.advance(x, given.styles)[0]

    def advance(
        self, x: Tensor, styles: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, D) and the state (2, B, D) behind them; state: that before, None at 0."""
        y, state = self.gru(x, state)
        return y * self.style(styles)[:, None], state

"""The vertex head: the decoder's output to offsets of the vertices from the neutral face."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.lean_linear import CoarseBackward

RIDGE = 1e-6  # relative to the mean square of the components


class VertexHead(nn.Module):
    """Decoder output (B, T, D) to offsets (B, T, V, 3), zero at initialisation.

    rank 0: one D x 3V matrix, as in the paper. rank r: D x r, then r learnt components of the mesh;
    `set_components` initialises them with principal components of the data.
    """

    def __init__(self, d_model: int, n_vertices: int, rank: int) -> None:
        super().__init__()
        self.n_vertices = n_vertices
        self.coefficients = nn.Linear(d_model, rank) if rank else None
        self.offsets = nn.Linear(rank or d_model, 3 * n_vertices)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)

    def low_rank(self, x: Tensor) -> Tensor:
        """x: (B, T, D). Returns coefficients (B, T, rank) float32, for a rank above 0."""
        with torch.autocast(x.device.type, enabled=False):
            return self.coefficients(x.float())

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, D). Returns (B, T, V, 3) float32, under autocast as well."""
        device = x.device.type
        coarse = torch.is_autocast_enabled(device) and torch.is_grad_enabled()
        coarse = coarse and torch.get_autocast_dtype(device) == torch.bfloat16
        with torch.autocast(device, enabled=False):  # bfloat16 has an error of 0.2 %
            x = x.float() if self.coefficients is None else self.coefficients(x.float())
            last = self.offsets
            offsets = CoarseBackward.apply(x, last.weight, last.bias) if coarse else last(x)
            return offsets.unflatten(-1, (self.n_vertices, 3))

    def offsets_of(self, x: Tensor, vertices: Tensor) -> Tensor:
        """Offsets (B, T, L, 3) float32 of some vertices (L,) for x (B, T, D)."""
        rows = (3 * vertices[:, None] + torch.arange(3, device=vertices.device)).flatten()
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if self.coefficients is None else self.coefficients(x.float())
            last = self.offsets
            return F.linear(x, last.weight[rows], last.bias[rows]).unflatten(-1, (-1, 3))

    def motion(self, x: Tensor) -> Tensor:
        """Motion (B, T, M) float32 of x (B, T, D): coefficients, or with rank 0 offsets (3V)."""
        return self(x).flatten(2) if self.coefficients is None else self.low_rank(x)

    @torch.no_grad()
    def motion_of_offsets(self, offsets: Tensor) -> Tensor:
        """The motion (B, T, M) whose offsets are nearest to `offsets` (B, T, V, 3)."""
        flat = offsets.float().flatten(2)
        if self.coefficients is None:
            return flat
        return self.solve((flat - self.offsets.bias) @ self.offsets.weight)

    @torch.no_grad()
    def motion_of_curves(self, curves: Tensor, basis: Tensor) -> Tensor:
        """`motion_of_offsets` of curves (B, T, K) @ basis (K, V, 3), for a rank above 0."""
        weight, bias = self.offsets.weight, self.offsets.bias
        return self.solve(curves @ (basis.flatten(1) @ weight) - bias @ weight)

    def solve(self, products: Tensor) -> Tensor:
        """Least squares: coefficients (B, T, r) of products (B, T, r) with the components.

        A small ridge keeps components that are zero, as few training frames leave them, at zero.
        """
        gram = (self.offsets.weight.T @ self.offsets.weight).double()
        ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-30)
        gram = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return torch.linalg.solve(gram, products.double(), left=False).float()

    @torch.no_grad()
    def set_components(self, mean: Tensor, components: Tensor) -> None:
        """Initialise with mean offsets (V, 3) and components (rank, V, 3) for unit coefficients."""
        if self.coefficients is None:
            raise ValueError("vertex head of rank 0: it has no components")
        self.offsets.bias.copy_(mean.flatten())
        self.offsets.weight.copy_(components.flatten(1).T)
        nn.init.normal_(self.coefficients.weight, std=0.02)
        nn.init.zeros_(self.coefficients.bias)

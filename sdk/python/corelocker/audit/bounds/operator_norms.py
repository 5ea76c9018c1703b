"""Upper bounds of the operator norms of linear layers and convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from corelocker.audit import need

if TYPE_CHECKING:
    from torch import Tensor


MARGIN = 1 + 1e-9  # the rounding of sums and singular values in float64
EXACT_COST = 4e10  # multiplications that an exact convolution norm may take
INFINITE = math.inf


def linear_norm(weight: Tensor) -> float:
    """Largest singular value of a matrix (out, in), or for a very large one sqrt(||W||_1 ||W||_inf), which is never less."""
    matrix = _without_zeros(weight.double().flatten(1))
    if matrix.numel() == 0:
        return 0.0
    if min(matrix.shape) ** 2 * max(matrix.shape) > EXACT_COST:
        magnitudes = matrix.abs()
        return float((magnitudes.sum(0).max() * magnitudes.sum(1).max()).sqrt()) * MARGIN
    return float(need("torch").linalg.matrix_norm(matrix, 2)) * MARGIN


def conv_norm(
    weight: Tensor,
    size: Sequence[int],
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> float:
    """Upper bound of the operator norm of a convolution with zero padding, whatever its stride.

    Args:
        weight: (out, in / groups, kh, kw) or (out, in / groups, k).
        size: height and width (or length) of the input.
        padding, dilation: one number an axis.

    On a torus as large as the padded input the convolution is diagonal in frequency, and its norm is the largest singular value
    of the transfer matrices (Sedghi, Gupta, Long 2019, theorem 6). The real output is part of the torus's, its input a part of
    the torus too, so its norm is not larger. Where that costs too much, the sum of the norms of the kernel's taps stands in,
    which is never less.
    """
    torch = need("torch")
    taps = tuple(weight.shape[2:])
    kernel = weight.double().reshape(groups, weight.shape[0] // groups, weight.shape[1], *taps)
    torus = [max(n + 2 * p, d * (k - 1) + 1) for n, p, d, k in zip(size, padding, dilation, taps, strict=True)]
    rows, columns = kernel.shape[1], kernel.shape[2]
    frequencies = math.prod(torus[:-1]) * (torus[-1] // 2 + 1)
    if groups * frequencies * min(rows, columns) ** 2 * max(rows, columns) > EXACT_COST:
        by_tap = kernel.flatten(3).permute(0, 3, 1, 2)
        return float(torch.linalg.matrix_norm(by_tap, 2).sum(1).max()) * MARGIN
    spread = torch.zeros(*kernel.shape[:3], *torus, dtype=torch.float64)
    spread[(..., *(slice(0, d * (k - 1) + 1, d) for k, d in zip(taps, dilation, strict=True)))] = kernel
    # A correlation is a convolution with the mirrored kernel: the transfer matrices are conjugated, their norms the same.
    transfer = torch.fft.rfftn(spread, dim=tuple(range(3, 3 + len(taps)))).flatten(3).permute(0, 3, 1, 2)
    if min(rows, columns) == 1:
        return float(transfer.abs().square().sum((2, 3)).max().sqrt()) * MARGIN
    gram = transfer @ transfer.mH if rows <= columns else transfer.mH @ transfer
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[..., -1].max()))) * (MARGIN + 1e-9)


def _without_zeros(matrix: Tensor) -> Tensor:
    """The same norm in fewer rows and columns: what a lock changes is a few rows."""
    rows, columns = matrix.abs().sum(1) > 0, matrix.abs().sum(0) > 0
    return matrix[rows][:, columns]

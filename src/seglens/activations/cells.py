"""Masks on the token grid: how much of each token's cell they cover."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from seglens.shapes import Extent


def cell_shares(masks: Float[Tensor, "n D H W"], grid: Extent) -> Float[Tensor, "n d h w"]:
    """Mean of masks over the cell of each token.

    Args:
        masks: 0..1 at every pixel.
        grid: slices, rows and columns of tokens.
    """
    shares = functional.adaptive_avg_pool2d(masks, grid[1:])  # every slice in its plane
    if len(shares[0]) == grid[0]:
        return shares
    return functional.adaptive_avg_pool3d(shares, (grid[0], *shares.shape[2:]))

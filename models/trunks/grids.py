"""The square grid of patches in what a network returns."""

from math import isqrt

from torch import Tensor


def tokens_to_grid(tokens: Tensor, prefix: int | None = None) -> Tensor:
    """Arrange the patches of a vision transformer in their grid: tokens [B, prefix + G * G, C] -> [B, C, G, G].

    prefix: how many class and register tokens come first; None: as many as leave the largest square. Raises ValueError
    if the patches do not form a square.
    """
    count = tokens.shape[1]
    side = isqrt(count if prefix is None else count - prefix)
    if prefix is not None and side * side != count - prefix:
        raise ValueError(f"its {count - prefix} patches do not form a square grid")
    return tokens[:, count - side * side:].transpose(1, 2).unflatten(2, (side, side))

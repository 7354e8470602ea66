"""Convert the values of arrays and pictures to uint8 by a stated range."""

import numpy as np

__all__ = ["to_uint8"]


def to_uint8(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Maps numbers of any type linearly, so that `limits` become 0 and 255: uint8 of the same shape.

    The result is round((value - low) * 255 / (high - low)) in float64, half to even; values beyond the limits take the
    nearer one, infinities too, and NaN, which sensors give where they measure nothing, becomes 0.
    """
    low, high = limits
    scaled = values.astype(np.float64)
    np.clip(scaled, low, high, out=scaled)
    scaled -= low
    scaled *= 255 / (high - low)
    if values.dtype.kind == "f":
        scaled[np.isnan(scaled)] = 0
    return np.rint(scaled, out=scaled).astype(np.uint8)

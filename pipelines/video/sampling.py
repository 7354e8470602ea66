"""Choose which frames of a video make a clip, and how each is fitted to the frame size."""

import math
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["FITS", "Sampling", "evenly_spaced"]


FITS = ("stretch", "crop", "letterbox")
# Earlier versions do not know these: they are stored only if they are set.
_NEW = ("value_range", "picture_fps")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """The frames of a video that make its clip (by default all of them), and how they are fitted to the frame size."""

    max_frames: int | None = None
    """take at most this many frames; without num_frames, the first ones"""
    num_frames: int | None = None
    """take this many frames, evenly spaced over the video; all of them if it has fewer"""
    fps: float | None = None
    """take this many frames per second, by the time stamps in the file"""
    every: int | None = None
    """take every n-th frame, beginning with the first"""
    fit: str = "stretch"
    """for videos of another aspect ratio: stretch, crop (the centre fills the frame) or letterbox (black bars)"""
    value_range: str | None = None
    """LOW:HIGH, the values of arrays, and of pictures of more than 8 bits, that become 0 and 255; uint8 stays as it
    is"""
    picture_fps: float | None = None
    """rate of folders of pictures, which do not say it, in frames/s"""

    def __post_init__(self) -> None:
        _ = self.limits  # for its own checks
        for name in ("max_frames", "num_frames", "fps", "every", "picture_fps"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        given = [f"{n}={value}" for n in ("num_frames", "fps", "every") if (value := getattr(self, n)) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; give one of them")
        if self.fit not in FITS:
            raise ValueError(f"fit must be stretch, crop or letterbox, got {self.fit!r}")

    @property
    def limits(self) -> tuple[float, float] | None:
        """The two values of value_range. Raises ValueError."""
        if self.value_range is None:
            return None
        try:
            low, high = map(float, self.value_range.split(":"))
        except ValueError:
            low = high = math.nan
        if not (low < high and math.isfinite(high - low) and math.isfinite(255 / (high - low))):
            raise ValueError(f"value_range must be LOW:HIGH, two numbers such as 20:40, got {self.value_range!r}")
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """The values as they are stored in dataset.json."""
        return {name: value for name, value in asdict(self).items() if value is not None or name not in _NEW}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Sampling":
        """The inverse of `to_dict`; values that older files lack take their defaults."""
        return cls(**values)


def evenly_spaced(num_total: int, num_wanted: int) -> set[int]:
    """Indices of `num_wanted` frames, each in the middle of its share of `num_total`; all if there are no more."""
    if num_total <= num_wanted:
        return set(range(num_total))
    return {(2 * i + 1) * num_total // (2 * num_wanted) for i in range(num_wanted)}

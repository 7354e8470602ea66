"""Choose which frames of a video make a clip, and how each is fitted to the frame size."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["FITS", "Sampling", "evenly_spaced"]


FITS = ("stretch", "crop", "letterbox")


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

    def __post_init__(self) -> None:
        for name in ("max_frames", "num_frames", "fps", "every"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        given = [f"{n}={value}" for n in ("num_frames", "fps", "every") if (value := getattr(self, n)) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; give one of them")
        if self.fit not in FITS:
            raise ValueError(f"fit must be stretch, crop or letterbox, got {self.fit!r}")

    def to_dict(self) -> dict[str, Any]:
        """The values as they are stored in dataset.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Sampling":
        """The inverse of `to_dict`; values that older files lack take their defaults."""
        return cls(**values)


def evenly_spaced(num_total: int, num_wanted: int) -> set[int]:
    """Indices of `num_wanted` frames, each in the middle of its share of `num_total`; all if there are no more."""
    if num_total <= num_wanted:
        return set(range(num_total))
    return {(2 * i + 1) * num_total // (2 * num_wanted) for i in range(num_wanted)}

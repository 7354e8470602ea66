"""Clips of unequal length as rows without padding, and back.

Legend: B batch, T time, F frames (packed B and T), D frame size, H hidden size.

Packed means as in torch's PackedSequence: time by time, longest clip first.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, unpack_sequence

from ttrnn.shapes import format_modes

__all__ = ["Frames", "as_clips"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    """All frames of a batch as rows, and the indices that give results the caller's layout."""

    rows: Tensor | tuple[Tensor, ...]
    """(rows, D) the frames as they are stored, padding and all, or (T_b, D) for each clip b of a list; views of the
    input wherever there are any."""
    batch_sizes: list[int]
    """Clips still running at each time; sums to F."""
    taken: Tensor | None = None
    """(F,) those of `rows` that count, in packed order; None where all do."""
    row_order: Tensor | None = None
    """Gathers the results of all `rows` into packed order; None where they are in it."""
    sorted_indices: Tensor | None = None
    """Clips from longest to shortest; None where they come so."""
    unsorted_indices: Tensor | None = None
    """The way back."""
    leading: tuple[int, ...] | None = None
    """Leading axes of a padded input; None for a PackedSequence or a list of clips."""

    @classmethod
    def of(
        cls,
        frames: Tensor | PackedSequence | Sequence[Tensor],
        lengths: Tensor | Sequence[int] | None,
        batch_first: bool,
        size: int,
    ) -> "Frames":
        """Reads any input that the layers take; `size` is D. Raises ValueError with the shapes that do not fit."""
        if isinstance(frames, PackedSequence):
            if lengths is not None:
                raise ValueError("a PackedSequence knows its lengths; lengths must be None")
            return cls(
                rows=_as_rows(frames.data, 1, size),
                batch_sizes=frames.batch_sizes.tolist(),
                sorted_indices=frames.sorted_indices,
                unsorted_indices=frames.unsorted_indices,
            )
        if not isinstance(frames, Tensor):
            return cls._of_clips(frames, lengths, size)
        if frames.dim() == 2:
            if len(frames) == 0:
                raise ValueError(f"there must be at least one frame, got input of shape {tuple(frames.shape)}")
            if lengths is not None:
                raise ValueError(f"lengths go with a batch, but the input of shape {tuple(frames.shape)} has none")
            return cls(rows=_as_rows(frames, 1, size), batch_sizes=[1] * len(frames), leading=(len(frames),))
        if frames.dim() < 2:
            raise ValueError(
                f"the input must be (T, B, *frame), (B, T, *frame) or (T, D), got shape {tuple(frames.shape)}"
            )
        rows, leading = _as_rows(frames, 2, size), (frames.shape[0], frames.shape[1])
        num_clips, num_times = leading if batch_first else leading[::-1]
        if num_times == 0 or num_clips == 0:
            raise ValueError(f"there must be at least one frame and one clip, got input of shape {tuple(frames.shape)}")
        counts = _counts(lengths, num_clips, num_times)
        between_times, between_clips = (1, num_times) if batch_first else (num_clips, 1)
        if min(counts) == num_times:
            order = torch.arange(len(rows), device=rows.device).view(leading).t().reshape(-1) if batch_first else None
            return cls(rows=rows, batch_sizes=[num_clips] * num_times, row_order=order, leading=leading)
        starts = [clip * between_clips for clip in range(num_clips)]
        taken, ragged = _longest_first(starts, counts, between_times, rows)
        return cls(rows=rows, taken=taken, leading=leading, **ragged)

    @classmethod
    def _of_clips(cls, clips: Sequence[Tensor], lengths: Tensor | Sequence[int] | None, size: int) -> "Frames":
        if lengths is not None:
            raise ValueError("a list of clips knows their lengths; lengths must be None")
        if not clips or any(clip.dim() < 2 or len(clip) == 0 for clip in clips):
            raise ValueError(
                "a list must hold at least one clip (T, *frame) and each clip at least one frame, "
                f"got shapes {[tuple(clip.shape) for clip in clips]}"
            )
        if len({(clip.dtype, clip.device) for clip in clips}) > 1:
            kinds = ", ".join(sorted({f"{clip.dtype} on {clip.device}" for clip in clips}))
            raise ValueError(f"the clips of a list must be of one dtype and on one device, got {kinds}")
        rows = tuple(_as_rows(clip, 1, size) for clip in clips)
        lengths_B = [len(clip) for clip in clips]
        starts = list(itertools.accumulate(lengths_B, initial=0))[:-1]
        row_order, ragged = _longest_first(starts, lengths_B, 1, rows[0])
        return cls(rows=rows, row_order=row_order, **ragged)

    @property
    def num_clips(self) -> int:
        """B."""
        return self.batch_sizes[0]

    @property
    def batched(self) -> bool:
        """False for a single clip given without the axis B."""
        return self.leading is None or len(self.leading) == 2

    def pack(self, results: Tensor) -> Tensor:
        """Results of the rows that were taken, (F, *), in packed order."""
        return results if self.row_order is None else results.index_select(0, self.row_order)

    def sort(self, clips: Tensor) -> Tensor:
        """(L, B, H) from the caller's order of clips to longest first."""
        return clips if self.sorted_indices is None else clips[:, self.sorted_indices]

    def unsort(self, clips: Tensor) -> Tensor:
        """(L, B, H) back to the caller's order; (L, H) where the caller gave no axis B."""
        clips = clips if self.unsorted_indices is None else clips[:, self.unsorted_indices]
        return clips if self.batched else clips.squeeze(1)

    def unpack(self, packed: Tensor) -> Tensor | PackedSequence:
        """(F, H) packed results in the layout of the input, zeros where it was padding."""
        if self.leading is None:
            return PackedSequence(packed, torch.tensor(self.batch_sizes), self.sorted_indices, self.unsorted_indices)
        if self.batch_sizes[0] == self.batch_sizes[-1]:
            by_time = packed.view(len(self.batch_sizes), -1, packed.shape[1])
            return by_time.view(*self.leading, -1) if self.row_order is None else by_time.transpose(0, 1)
        assert self.taken is not None
        stored = packed.new_zeros(math.prod(self.leading), packed.shape[1])
        return stored.index_copy(0, self.taken, packed).view(*self.leading, -1)


def as_clips(
    frames: Tensor | PackedSequence | Sequence[Tensor], lengths: Tensor | Sequence[int] | None
) -> Sequence[Tensor]:
    """The clips of a padded batch (B, T, *frame) without the padding, as views; those of a PackedSequence, as copies; a
    list as it is. `lengths` as in `Frames.of`."""
    if isinstance(frames, Tensor):
        counts = _counts(lengths, *frames.shape[:2])
        return [clip[:count] for clip, count in zip(frames, counts, strict=True)]
    if lengths is not None:
        raise ValueError("a PackedSequence and a list of clips know their lengths; lengths must be None")
    return unpack_sequence(frames) if isinstance(frames, PackedSequence) else frames


def _counts(lengths: Tensor | Sequence[int] | None, num_clips: int, num_times: int) -> list[int]:
    counts: list[int] = [num_times] * num_clips if lengths is None else torch.as_tensor(lengths).tolist()
    if len(counts) != num_clips or any(not 1 <= count <= num_times for count in counts):
        raise ValueError(f"lengths must be {num_clips} numbers from 1 to {num_times}, got {counts}")
    return counts


def _longest_first(
    starts: Sequence[int], lengths: Sequence[int], step: int, like: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """Places of the rows that count, in packed order, and the other fields of `Frames` for clips of unequal length.

    Made of Python numbers, so that a GPU has nothing to wait for.

    Args:
        starts: Row of each clip's first frame.
        lengths: Frames of each clip.
        step: From each frame of a clip to the next.
        like: On the device where the places are needed.
    """
    order = sorted(range(len(lengths)), key=lambda clip: -lengths[clip])
    firsts, batch_sizes, size = [starts[clip] for clip in order], [], len(order)
    for time in range(max(lengths)):
        while lengths[order[size - 1]] <= time:
            size -= 1
        batch_sizes.append(size)
    places = [first + step * time for time, size in enumerate(batch_sizes) for first in firsts[:size]]
    return _to(like, places), {
        "batch_sizes": batch_sizes,
        "sorted_indices": _to(like, order),
        "unsorted_indices": _to(like, sorted(range(len(order)), key=order.__getitem__)),
    }


def _to(like: Tensor, indices: Sequence[int]) -> Tensor:
    return torch.tensor(indices).to(like.device, non_blocking=True)


def _as_rows(frames: Tensor, num_leading: int, size: int) -> Tensor:
    if math.prod(frames.shape[num_leading:]) != size:
        raise ValueError(
            f"each frame must have {size:,} values, got frames of {format_modes(frames.shape[num_leading:])}"
        )
    return frames.reshape(-1, size)

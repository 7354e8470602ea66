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
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, unpack_sequence

from ttrnn.shapes import format_modes

__all__ = ["Frames", "as_clips"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    """All frames of a batch as rows, and the indices that give results the caller's layout."""

    rows: Tensor | tuple[Tensor, ...]
    """(rows, D) frames with their padding, or (T_b, D) for each clip b of a list; views of the input where possible."""
    batch_sizes: list[int]
    """Clips still running at each time; sums to F."""
    taken: Tensor | None = None
    """(F,) rows without padding, in packed order; None for all."""
    row_order: Tensor | None = None
    """Gathers the results of all `rows` into packed order; None where they are in it."""
    sorted_indices: Tensor | None = None
    """Clips from longest to shortest; None where they are in this order."""
    unsorted_indices: Tensor | None = None
    """The inverse of sorted_indices."""
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
        """From any input that the layers take; `size` is D. Raises ValueError that gives the shapes that do not fit."""
        if isinstance(frames, PackedSequence):
            if lengths is not None:
                raise ValueError("a PackedSequence knows its lengths; lengths must be None")
            return cls(rows=_as_rows(frames.data, 1, size), **_orders(frames))
        if not isinstance(frames, Tensor):
            return cls._of_clips(frames, lengths, size)
        shape = tuple(frames.shape)
        if frames.dim() == 2:
            if len(frames) == 0:
                raise ValueError(f"there must be at least one frame, got input of shape {shape}")
            if lengths is not None:
                raise ValueError(f"lengths go with a batch, but the input of shape {shape} has none")
            return cls(rows=_as_rows(frames, 1, size), batch_sizes=[1] * len(frames), leading=(len(frames),))
        if frames.dim() < 2:
            raise ValueError(f"the input must be (T, B, *frame), (B, T, *frame) or (T, D), got shape {shape}")
        rows, leading = _as_rows(frames, 2, size), shape[:2]
        num_clips, num_times = leading if batch_first else leading[::-1]
        if num_times == 0 or num_clips == 0:
            raise ValueError(f"there must be at least one frame and one clip, got input of shape {shape}")
        counts = _counts(lengths, num_clips, num_times)
        if min(counts) == num_times:
            order = torch.arange(len(rows), device=rows.device).view(leading).t().reshape(-1) if batch_first else None
            return cls(rows=rows, batch_sizes=[num_clips] * num_times, row_order=order, leading=leading)
        places = _packed(torch.arange(len(rows), device="cpu").view(leading), counts, batch_first, rows.device)
        return cls(rows=rows, taken=places.data, leading=leading, **_orders(places))

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
        *starts, _ = itertools.accumulate(map(len, clips), initial=0)
        places_BT = torch.tensor(starts, device="cpu").unsqueeze(1) + torch.arange(max(map(len, clips)), device="cpu")
        places = _packed(places_BT, [len(clip) for clip in clips], True, rows[0].device)
        return cls(rows=rows, row_order=places.data, **_orders(places))

    @property
    def num_clips(self) -> int:
        """B."""
        return self.batch_sizes[0]

    @property
    def batched(self) -> bool:
        """False for a single clip given without the axis B."""
        return self.leading is None or len(self.leading) == 2

    def pack(self, results: Tensor) -> Tensor:
        """Results (F, *) in packed order."""
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


def _packed(places: Tensor, counts: Sequence[int], batch_first: bool, device: torch.device) -> PackedSequence:
    """Packs the places of frames on the CPU, so that a GPU has nothing to wait for, and copies them to a device."""
    counts_B = torch.tensor(counts, device="cpu")
    packed = pack_padded_sequence(places, counts_B, batch_first, enforce_sorted=False)
    return packed.to(device, non_blocking=True)  # type: ignore[arg-type]  # torch declares less than it takes


def _orders(packed: PackedSequence) -> dict[str, Any]:
    indices = {name: getattr(packed, name) for name in ("sorted_indices", "unsorted_indices")}
    return {"batch_sizes": packed.batch_sizes.tolist(), **indices}


def _counts(lengths: Tensor | Sequence[int] | None, num_clips: int, num_times: int) -> list[int]:
    counts: list[int] = [num_times] * num_clips if lengths is None else torch.as_tensor(lengths).tolist()
    if len(counts) != num_clips or any(not 1 <= count <= num_times for count in counts):
        raise ValueError(f"lengths must be {num_clips} numbers from 1 to {num_times}, got {counts}")
    return counts


def _as_rows(frames: Tensor, num_leading: int, size: int) -> Tensor:
    if math.prod(frame := frames.shape[num_leading:]) != size:
        raise ValueError(f"each frame must have {size:,} values, got frames of {format_modes(frame)}")
    return frames.reshape(-1, size)

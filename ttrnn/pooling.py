"""Pool the states of all frames of a clip: their last, mean, maximum, or a learnt weighted mean.

Legend: B batch, F frames (packed B and T), H size of a state (both directions).

Source of attention pooling: Bahdanau et al. 2015 with one learnt query, a_t = softmax_t(q . h_t), sum_t a_t h_t.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["POOLINGS", "Pooling"]


# The parts of a stream's state: sum and max have the size of a state, the others are one number.
_PARTS = {"last": (), "mean": ("sum", "count"), "max": ("max", "count"), "attention": ("sum", "weight", "peak")}
POOLINGS = tuple(_PARTS)


class Pooling(nn.Module):
    """Pools the states of clips of unequal length; `attention` has H parameters, the others none.

    Args:
        kind: last, mean, max or attention.
        size: H.
    """

    def __init__(self, kind: str, size: int) -> None:
        super().__init__()
        self.kind, self.size = kind, size
        # All frames weigh the same at start.
        self.query = nn.Parameter(torch.zeros(size)) if kind == "attention" else None

    def forward(self, states_FH: Tensor, batch_sizes: Sequence[int]) -> Tensor:
        """(B, H) of packed states; not for `last`, which the recurrent layer returns."""
        num_clips = batch_sizes[0]
        clips = [clip for size in batch_sizes for clip in range(size)]
        clip_F = torch.tensor(clips).to(states_FH.device, non_blocking=True)
        zeros_BH = states_FH.new_zeros(num_clips, self.size)
        if self.kind == "max":
            index_FH = clip_F.unsqueeze(1).expand_as(states_FH)
            return zeros_BH.scatter_reduce(0, index_FH, states_FH, "amax", include_self=False)
        if self.query is None:
            counts = [[sum(size > clip for size in batch_sizes)] for clip in range(num_clips)]
            counts_B1 = torch.tensor(counts).to(states_FH.device, non_blocking=True)
            return zeros_BH.index_add(0, clip_F, states_FH) / counts_B1
        # Under autocast the product comes in half precision; sums are in full.
        scores_F = (states_FH @ self.query).to(states_FH.dtype)
        zeros_B = scores_F.new_zeros(num_clips)
        peaks_B = zeros_B.scatter_reduce(0, clip_F, scores_F.detach(), "amax", include_self=False)
        weights_F = (scores_F - peaks_B[clip_F]).exp().to(states_FH.dtype)
        total_B = zeros_B.index_add(0, clip_F, weights_F)
        return zeros_BH.index_add(0, clip_F, states_FH * weights_F.unsqueeze(1)) / total_B.unsqueeze(1)

    def state(self, like_B: Tensor) -> dict[str, Tensor]:
        """The initial state of streams, by name: (B, H) or (B, 1) each, all zero."""
        sizes = {name: self.size if name in ("sum", "max") else 1 for name in _PARTS[self.kind]}
        return {name: like_B.new_zeros(len(like_B), size) for name, size in sizes.items()}

    def step(self, h_BH: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """(B, H) pooled over the frames so far, and the parts of `state` after this one."""
        if self.kind == "last":
            return (h_BH,)
        if self.kind == "mean":
            total, count = state[0] + h_BH, state[1] + 1
            return total / count, total, count
        if self.kind == "max":
            highest, count = state
            highest = torch.where(count == 0, h_BH, torch.maximum(highest, h_BH))
            return highest, highest, count + 1
        assert self.query is not None
        total, weight, peak = state
        score = (h_BH @ self.query).unsqueeze(1)
        # Before the first frame there is no peak, only its zero.
        peak = torch.where(weight == 0, score, peak)
        higher = torch.maximum(peak, score)
        old, new = (peak - higher).exp(), (score - higher).exp()
        total, weight = total * old + new * h_BH, weight * old + new
        return total / weight, total, weight, higher

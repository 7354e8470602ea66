"""Compare an exported model with its original, on clips of noise of several lengths.

Legend: B batch, T time, H hidden size, G gates, L layers.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ttrnn.model import VideoClassifier
from ttrnn.step import step_state

__all__ = ["TOLERANCE", "after", "checked", "largest_difference", "metadata", "streamed"]

TOLERANCE = 1e-4
"""of float32 against float32: |file - model| <= TOLERANCE * (1 + |model|)"""
# Lengths of the clips of each batch.
_LENGTHS = ([4], [1], [2, 4, 1])


def after(state: Iterable[str]) -> list[str]:
    """The names of the state after a step: h_0 -> h_n."""
    return [name.replace("_0", "_n") for name in state]


def streamed(
    model: VideoClassifier, frames: Tensor, step: Callable[[Tensor, dict[str, Tensor]], Sequence[Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of actual and expected logits, scores and states after each frame of B streams (B, T, *frame).

    `step` maps a frame (B, *frame) and the state to logits, scores and the next state; `model` gives the expected ones.
    """
    state = step_state(model, len(frames))
    for number in range(frames.shape[1]):
        logits, scores, *parts = step(frames[:, number], state)
        state = dict(zip(state, parts, strict=True))
        _, hx = model.recurrent(frames[:, : number + 1])
        expected = model(frames[:, : number + 1])
        yield from ((logits, expected), (scores, model.probabilities(expected)))
        # The state of differences and pooling shows in the logits.
        yield from zip(parts, hx if isinstance(hx, tuple) else (hx,), strict=False)


@torch.no_grad()
def largest_difference(
    model: VideoClassifier, run: Callable[[Tensor, list[int]], Iterable[tuple[Tensor, Tensor]]]
) -> float:
    """The largest |actual - expected| / (1 + |expected|) for clips of noise; NaN if one is.

    `run` maps uint8 frames (B, T, *frame) and the length of each clip to pairs (actual, expected).
    """
    config, generator, differences = model.config, torch.Generator().manual_seed(0), []
    for lengths in _LENGTHS:
        size = (len(lengths), max(lengths), config.height, config.width, config.channels)
        frames = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        differences += [((mine - theirs).abs() / (1 + theirs.abs())).max() for mine, theirs in run(frames, lengths)]
    return torch.stack(differences).max().item()


def checked(what: str, difference: float) -> float:
    """Returns the difference if it is within TOLERANCE, else raises RuntimeError."""
    # Not >, so that NaN is refused too.
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"the {what}'s outputs differ from the model's by {difference:.1e}, more than {TOLERANCE:.0e}: not kept"
        )
    return difference


def metadata(model: VideoClassifier, form: str, difference: float) -> dict[str, str]:
    """The metadata of a file of a form, step or clip."""
    config = model.config
    numbers = {name: str(getattr(config, name)) for name in ("width", "height", "channels")}
    texts = {"classes": json.dumps(config.classes), "sampling": json.dumps(config.sampling), "task": config.task}
    return {"format": "ttrnn", "version": "1", "form": form, "matches_within": f"{difference:.1e}", **texts, **numbers}

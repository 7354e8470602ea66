"""VideoClassifier: uint8 frames -> stem, if there is one -> recurrent layers -> pooling over time -> logits.

Legend: B batch, T time, D frame size (height x width x channels), H hidden size, C classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ttrnn.config import ModelConfig
from ttrnn.packing import as_clips
from ttrnn.pooling import Pooling
from ttrnn.recurrent import TTGRU, TTLSTM, TTRNN
from ttrnn.shapes import parse_modes
from ttrnn.stem import Stem
from ttrnn.step import Step, step_state
from ttrnn.stream import Stream, as_frames

__all__ = ["ModelConfig", "VideoClassifier"]

_CELLS = {"rnn": TTRNN, "gru": TTGRU, "lstm": TTLSTM}


class VideoClassifier(nn.Module):
    """Classifies clips of uint8 frames as they are stored, height x width x channels.

    Examples:
        >>> config = ModelConfig(width=160, height=120, classes=("walking", "diving"), in_modes="8x20x20x18")
        >>> model = VideoClassifier(config)
        >>> model(torch.zeros(2, 5, 120, 160, 3, dtype=torch.uint8), lengths=[5, 3]).shape
        torch.Size([2, 2])
        >>> model.config.input_params
        3232
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        matrix, recurrent = config.input_matrix, config.recurrent_matrix
        # One scale for all channels: it folds into a core. The mean goes by channel, as one constant vector.
        scale = 1 / math.sqrt(sum(std * std for std in config.std) / len(config.std))
        # A stem normalises frames itself, and what comes out of it.
        self.stem = None if config.stem_shape is None else Stem(config.stem_shape, config.mean, scale)
        self.rnn = _CELLS[config.cell](
            parse_modes(config.in_modes),
            parse_modes(config.hidden_modes),
            matrix.ranks,
            num_layers=config.num_layers,
            batch_first=True,
            dropout=config.dropout,
            bidirectional=config.bidirectional,
            recurrent_ranks=None if recurrent is None else recurrent.ranks,
            factorization=matrix.name,
            recurrent_factorization=config.recurrent_format,
            recurrent_dropout=config.recurrent_dropout,
            differences=config.input_differences,
            input_dropout=config.input_dropout,
            mean=config.mean if self.stem is None else 0.0,
            scale=scale if self.stem is None else 1.0,
        )
        size = config.hidden_size * self.rnn.num_directions
        self.pooling = Pooling(config.pooling, size)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(size, len(config.classes))

    @property
    def num_params(self) -> int:
        """All parameters, classifier included."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(
        self, frames: Tensor | PackedSequence | Sequence[Tensor], lengths: Tensor | Sequence[int] | None = None
    ) -> Tensor:
        """Logits (B, C) of clips (B, T, *frame), of which clip b has lengths[b] frames, or of a PackedSequence, or of a
        list of clips (T_b, *frame), which are read where they lie."""
        is_last = self.config.pooling == "last"
        if self.stem is None and not is_last and isinstance(frames, Tensor):
            # Views: clips of a list come back packed, as the pooling takes them.
            frames, lengths = as_clips(frames, lengths), None
        output, h_n = self.recurrent(frames, lengths)
        if is_last:
            h_n = h_n[0] if isinstance(h_n, tuple) else h_n
            pooled = h_n[-self.rnn.num_directions :].transpose(0, 1).flatten(1)
        else:
            pooled = self.pooling(output.data, output.batch_sizes.tolist())
            if output.unsorted_indices is not None:
                pooled = pooled[output.unsorted_indices]
        return self.head(self.dropout(pooled))

    def recurrent(
        self, frames: Tensor | PackedSequence | Sequence[Tensor], lengths: Tensor | Sequence[int] | None = None
    ) -> Any:
        """Output and final state of the recurrent layers for clips, behind the stem if there is one."""
        if self.stem is None:
            return self.rnn(frames, lengths=lengths)
        # On a processor, convolutions of so few channels take twice as long in bfloat16.
        dtype = None if self.head.weight.device.type == "cpu" else self.rnn.compute_dtype
        return self.rnn(self.stem(as_clips(frames, lengths), dtype))

    def step(self, frame: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits (C,) after one more frame of a stream, and the state to give with the next; constant memory.

        The logits after a clip's last frame are those of the whole clip.

        Raises:
            ValueError: the model is bidirectional.
        """
        carried, pooling, *kept = (None, None) if state is None else state
        row = frame.unsqueeze(0)
        if self.stem is not None:
            row, *kept = self.stem.step(row, *(self.stem.state(1).values() if state is None else kept))
        h, carried = self.rnn.step(row, carried)
        pooled, *pooling = self.pooling.step(h, *(self.pooling.state(h).values() if pooling is None else pooling))
        return self.head(self.dropout(pooled[0])), (carried, pooling, *kept)

    @torch.inference_mode()
    def predict(self, frames: Any, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """Probabilities (C,) of a clip, or (B, C) of several, in the order of config.classes, on the CPU.

        Args:
            frames: uint8 (T, height, width, channels) or (B, T, height, width, channels), RGB, of the model's size: a
                tensor on any device, or a numpy array.
            lengths: (B,) frames of each clip without padding, from 1 to T; None for all.

        Raises:
            ValueError: not uint8, another shape, lengths outside 1..T, or a model in training mode.
        """
        self._refuse_training()
        clips = self._frames(frames, "T", "BT")
        is_one = clips.dim() == 4
        scores = self.probabilities(self(clips.unsqueeze(0) if is_one else clips, lengths)).cpu()
        return scores[0] if is_one else scores

    def stream(self) -> Stream:
        """For one frame at a time, in constant memory: `stream.push(frame)` gives the probabilities so far.

        Any number of streams may run at once, each with the weights that the model had when it was made.

        Raises:
            ValueError: the model is bidirectional, or in training mode.
        """
        self._refuse_training()
        if self.config.bidirectional:
            raise ValueError("bidirectional models can't stream, they start at the last frame: use predict")
        step, state = Step(self).eval(), list(step_state(self, 1).values())

        @torch.inference_mode()
        def push(frame: Any) -> Tensor:
            _, scores, *state[:] = step(self._frames(frame, "").unsqueeze(0), *state)
            return scores[0].cpu()

        return Stream(push)

    def _frames(self, frames: Any, *kinds: str) -> Tensor:
        config = self.config
        return as_frames(frames, (config.height, config.width, config.channels), kinds).to(self.head.weight.device)

    def _refuse_training(self) -> None:
        if self.training:
            raise ValueError("the model is in training mode, with dropout: call model.eval() first")

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over classes, or a sigmoid each where clips have several labels."""
        return logits.softmax(dim=-1) if self.config.task == "single_label" else logits.sigmoid()

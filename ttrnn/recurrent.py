"""TTRNN, TTGRU, TTLSTM: the twins of nn.RNN, nn.GRU and nn.LSTM whose input matrix is a tensor train.

Legend: B batch, T time, F frames (packed B and T), D frame size, H hidden size, G gates, L layers times directions.

The products of all frames with the input matrix happen at once, before the loop over time. Source: Yang et al., ICML
2017, equations 5-13; the gates share one TT-matrix with the gate on its first output mode.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ttrnn.linear import TTLinear
from ttrnn.packing import Frames
from ttrnn.scan import before, masked, scan
from ttrnn.shapes import DIFFERENCES, NUM_GATES, gate_modes, input_out_modes

__all__ = ["TTGRU", "TTLSTM", "TTRNN"]


class _TTRecurrent(nn.Module):
    """What the three cells share; see TTGRU for the arguments and shapes."""

    cell: ClassVar[str]
    dense_twin: ClassVar[Any]

    def __init__(
        self,
        in_modes: Sequence[int],
        hidden_modes: Sequence[int],
        ranks: int | Sequence[int] = (),
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        recurrent_ranks: int | Sequence[int] | None = None,
        recurrent_dropout: float = 0.0,
        *,
        differences: str = "none",
        input_dropout: float = 0.0,
        mean: float | Sequence[float] = 0.0,
        scale: float = 1.0,
        compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        rates = {"dropout": dropout, "recurrent_dropout": recurrent_dropout, "input_dropout": input_dropout}
        for name, rate in rates.items():
            if not 0 <= rate < 1:
                raise ValueError(f"0 <= {name} < 1 must hold, got {rate}")
        if differences not in DIFFERENCES:
            raise ValueError(f"differences must be one of {', '.join(DIFFERENCES)}, got {differences!r}")
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        self.hidden_modes = tuple(hidden_modes)
        self.input_size, self.hidden_size = math.prod(in_modes), math.prod(hidden_modes)
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.recurrent_dropout, self.bidirectional = dropout, recurrent_dropout, bidirectional
        self.recurrent_ranks, self.differences, self.input_dropout = recurrent_ranks, differences, input_dropout
        self.num_directions = 2 if bidirectional else 1
        out_modes = gate_modes(hidden_modes, NUM_GATES[self.cell])
        for layer, suffix in self._directions():
            below = tuple(in_modes) if layer == 0 else (self.num_directions * hidden_modes[0], *hidden_modes[1:])
            normalisation: dict[str, Any] = {"mean": mean, "scale": scale} if layer == 0 else {}
            # The bias comes after differences are taken, or it would cancel.
            apart = layer == 0 and differences != "none"
            modes = input_out_modes(hidden_modes, NUM_GATES[self.cell], differences if apart else "none")
            setattr(
                self,
                f"ih_{suffix}",
                TTLinear(below, modes, ranks, bias and not apart, device=device, dtype=dtype, **normalisation),
            )
            if apart and bias:
                setattr(
                    self,
                    f"bias_ih_{suffix}",
                    nn.Parameter(torch.empty(math.prod(out_modes), device=device, dtype=dtype)),
                )
            if recurrent_ranks is None:
                hh = torch.empty(math.prod(out_modes), self.hidden_size, device=device, dtype=dtype)
                setattr(self, f"weight_hh_{suffix}", nn.Parameter(hh))
            else:
                setattr(
                    self,
                    f"hh_{suffix}",
                    TTLinear(hidden_modes, out_modes, recurrent_ranks, False, device=device, dtype=dtype),
                )
            if self.cell == "gru" and bias:
                setattr(
                    self, f"bias_hn_{suffix}", nn.Parameter(torch.empty(self.hidden_size, device=device, dtype=dtype))
                )
        self.compute_dtype = compute_dtype
        self.reset_parameters()

    def _directions(self) -> Iterator[tuple[int, str]]:
        """(layer, suffix of its names), in the order of torch's h_n."""
        for layer, direction in itertools.product(range(self.num_layers), range(self.num_directions)):
            yield layer, f"l{layer}" + ("_reverse" if direction else "")

    def reset_parameters(self, input_gain: float = 1.0) -> None:
        """Input matrices with rows of norm 1, biases 0 (an LSTM's forget gate 1), dense recurrent ones as torch has.

        torch draws those from U(-1/sqrt(H), 1/sqrt(H)): orthogonal ones, tried in their place, lost 2 to 5 points of
        accuracy on lip reading. A recurrent tensor train gets rows of norm 1.

        Args:
            input_gain: Standard deviation at start of the first layer's gates, for frames normalised by mean and scale.
        """
        for layer, suffix in self._directions():
            ih = self._ih(suffix)
            ih.reset_parameters(input_gain if layer == 0 else 1.0)
            bias = self._bias(suffix)
            if bias is not None:
                nn.init.zeros_(bias)
                if self.cell == "lstm":
                    with torch.no_grad():
                        bias[self.hidden_size : 2 * self.hidden_size].fill_(1.0)
            if self.recurrent_ranks is None:
                bound = 1 / math.sqrt(self.hidden_size)
                nn.init.uniform_(getattr(self, f"weight_hh_{suffix}"), -bound, bound)
            else:
                getattr(self, f"hh_{suffix}").reset_parameters()
            if self.cell == "gru" and self.bias:
                nn.init.zeros_(getattr(self, f"bias_hn_{suffix}"))

    def _ih(self, suffix: str) -> TTLinear:
        layer = getattr(self, f"ih_{suffix}")
        assert isinstance(layer, TTLinear)
        return layer

    def _bias(self, suffix: str) -> Tensor | None:
        """(G*H,) of the gates, wherever it lies."""
        bias: Tensor | None = getattr(self, f"bias_ih_{suffix}", self._ih(suffix).bias)
        return bias

    @property
    def compute_dtype(self) -> torch.dtype | None:
        """Of the products with the input of the first layer, as in TTLinear; may be set at any time."""
        return self._ih("l0").compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype | None) -> None:
        for layer, suffix in self._directions():
            if layer == 0:
                self._ih(suffix).compute_dtype = dtype

    def weight_hh(self, suffix: str = "l0") -> Tensor:
        """The recurrent matrix (G*H, H) of one layer and direction, multiplied out if it is a tensor train."""
        if self.recurrent_ranks is None:
            weight: Tensor = getattr(self, f"weight_hh_{suffix}")
            return weight
        layer = getattr(self, f"hh_{suffix}")
        assert isinstance(layer, TTLinear)
        return layer.weight()

    @property
    def input_params(self) -> int:
        """Input-to-hidden weights of the first layer (both directions), as papers count: no bias."""
        return sum(self._ih(suffix).shape.num_params for layer, suffix in self._directions() if layer == 0)

    @property
    def num_params(self) -> int:
        """All parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(
        self,
        input: Tensor | PackedSequence | Sequence[Tensor],
        hx: Tensor | tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor | tuple[Tensor, Tensor]]:
        """Runs the layers over clips.

        Args:
            input: (T, B, *frame), or (B, T, *frame) if batch_first, or (T, D) without a batch, where the axes of a
                frame multiply to D; floating point, or uint8 as stored. Or a PackedSequence of (F, *frame). Or a list
                of clips (T_b, *frame), in any order, as `torch.nn.utils.rnn.pack_sequence` takes: read where they lie,
                in a memory-mapped file say, and never copied together.
            hx: Initial state (L, B, H), zero if None; a pair (h, c) for an LSTM. Without the axis B for (T, D).
            lengths: (B,) number of frames of each clip, at least 1; what lies behind is padding: never computed, zero
                in the output.

        Returns:
            output, the top layer's states, shaped as the input with the frame's axes replaced by directions times H, a
            PackedSequence for a list; and the final state h_n (L, B, H), or (h_n, c_n), clips in the caller's order.

        Raises:
            ValueError: frames of the wrong size, lengths outside 1..T, a list without clips or with unlike ones.
        """
        frames = Frames.of(input, lengths, self.batch_first, self.input_size)
        output, finals, _ = self._run(frames, self._initial_state(hx, frames), None)
        h_n = tuple(frames.unsort(part) for part in finals)
        return frames.unpack(output), h_n if len(h_n) > 1 else h_n[0]  # type: ignore[return-value]

    def step(self, input: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One more frame of each of B streams; not for bidirectional layers.

        Args:
            input: (B, *frame).
            state: What the step before gave; None before the first.

        Returns:
            (B, H) the top layer's states, and the state: (hx, what differences to the next frame need or None).
        """
        assert not self.bidirectional
        frames = Frames(rows=input.reshape(len(input), self.input_size), batch_sizes=[len(input)])
        hx, previous = (None, None) if state is None else state
        output, finals, previous = self._run(frames, self._initial_state(hx, frames), previous)
        return output, (finals if len(finals) > 1 else finals[0], previous)

    def _run(
        self, frames: Frames, state: tuple[Tensor, ...], previous: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        """(F, directions * H) the top layer's states, the final ones (L, B, H), what `previous` is to the next frames;
        all in packed order."""
        x: Tensor | tuple[Tensor, ...] = frames.rows
        finals: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in [name for at, name in self._directions() if at == layer]:
                if layer == 0:
                    gates, order, kept = self._first_gates(suffix, frames, previous)
                else:
                    gates, order = self._ih(suffix)(x), None
                h = tuple(part[len(finals)] for part in state)
                output, final = scan(
                    self.cell,
                    gates,
                    self.weight_hh(suffix),
                    h,
                    frames.batch_sizes,
                    bias_hn=getattr(self, f"bias_hn_{suffix}", None),
                    mask_BH=self._mask(h[0], self.recurrent_dropout),
                    nonlinearity=getattr(self, "nonlinearity", "tanh"),
                    reverse=suffix.endswith("_reverse"),
                    order=order,
                )
                outputs.append(output)
                finals.append(final)
            top = torch.cat(outputs, dim=1) if self.bidirectional else outputs[0]
            x = nn.functional.dropout(top, self.dropout, self.training) if layer < self.num_layers - 1 else top
        return top, tuple(torch.stack(parts) for parts in zip(*finals, strict=True)), kept

    def _first_gates(
        self, suffix: str, frames: Frames, previous: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(F, G*H) gates of the first layer, the order that packs them, and the products of the last frame if the next
        one's difference needs them; `previous` are those of the frame before the first, if there was one."""
        gates, sizes = self._ih(suffix)(frames.rows, frames.taken), frames.batch_sizes
        mask = self._mask(gates[: sizes[0]], self.input_dropout)
        if self.differences == "none" and mask is None:
            return gates, frames.row_order, None
        gates = frames.pack(gates)
        if self.differences != "none":
            products, size = gates, NUM_GATES[self.cell] * self.hidden_size
            moved = products[:, -size:]
            # To what was there before the first frame there is no difference.
            gates = moved - before(moved[: sizes[0]] if previous is None else previous, moved, sizes)
            if self.differences == "extra":
                gates = gates + products[:, :size]
            bias = self._bias(suffix)
            gates, previous = gates if bias is None else gates + bias, moved[-sizes[-1] :]
            mask = self._mask(gates[: sizes[0]], self.input_dropout)
        return masked(gates, mask, sizes), None, previous

    def _initial_state(self, hx: Tensor | tuple[Tensor, Tensor] | None, frames: Frames) -> tuple[Tensor, ...]:
        """(L, B, H) parts of the state, clips in packed order."""
        num_parts, count = (2 if self.cell == "lstm" else 1), self.num_layers * self.num_directions
        shape = (count, frames.num_clips, self.hidden_size)
        if hx is None:
            weight = self._ih("l0").cores[0]
            return (torch.zeros(shape, device=weight.device, dtype=weight.dtype),) * num_parts
        parts = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        if not frames.batched:
            parts = tuple(part.unsqueeze(1) for part in parts)
        if len(parts) != num_parts or any(part.shape != shape for part in parts):
            raise ValueError(
                f"hx must be {'a pair of tensors' if num_parts == 2 else 'a tensor'} of shape {shape}, "
                f"got {[tuple(part.shape) for part in parts]}"
            )
        return tuple(frames.sort(part) for part in parts)

    def _mask(self, like: Tensor, rate: float) -> Tensor | None:
        """Factors 0 or 1 / (1 - rate), one row for each clip, held for all of its frames."""
        return nn.functional.dropout(torch.ones_like(like), rate) if self.training and rate else None

    def to_dense(self) -> nn.RNN | nn.GRU | nn.LSTM:
        """torch.nn's own layer with the cores multiplied out and the normalisation folded into weights and bias.

        Equal outputs, final state and gradients for float input. Dropout of input and recurrence, which torch lacks, is
        left out.

        Raises:
            ValueError: the layer sees differences of frames, or has a mean and no bias to fold it into.
        """
        if self.differences != "none":
            raise ValueError(f"differences {self.differences!r} have no dense twin: torch sees one frame at a time")
        first = self._ih("l0").cores[0]
        extra: dict[str, Any] = {"nonlinearity": self.nonlinearity} if isinstance(self, TTRNN) else {}
        dense = self.dense_twin(
            self.input_size,
            self.hidden_size,
            num_layers=self.num_layers,
            bias=self.bias,
            batch_first=self.batch_first,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
            device=first.device,
            dtype=first.dtype,
            **extra,
        )
        with torch.no_grad():
            for _, suffix in self._directions():
                ih = self._ih(suffix)
                folded = ih.to_dense()
                getattr(dense, f"weight_ih_{suffix}").copy_(folded.weight)
                getattr(dense, f"weight_hh_{suffix}").copy_(self.weight_hh(suffix))
                if not self.bias:
                    if ih.centred:
                        raise ValueError("a layer with a mean needs bias=True to have a dense twin")
                    continue
                getattr(dense, f"bias_ih_{suffix}").copy_(folded.bias)
                bias_hh = getattr(dense, f"bias_hh_{suffix}").zero_()
                if self.cell == "gru":
                    bias_hh[2 * self.hidden_size :] = getattr(self, f"bias_hn_{suffix}")
        return dense

    def extra_repr(self) -> str:
        """Parameters in all and in the input matrix."""
        return f"hidden_size={self.hidden_size}, input_params={self.input_params:,}, num_params={self.num_params:,}"


class TTRNN(_TTRecurrent):
    """h' = tanh(W x + b + U h), with W a tensor train: the twin of nn.RNN. Arguments: see TTGRU.

    Args:
        nonlinearity: "tanh" or "relu"; keyword only.
    """

    cell = "rnn"
    dense_twin = nn.RNN

    def __init__(self, *args: Any, nonlinearity: str = "tanh", **kwargs: Any) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be tanh or relu, got {nonlinearity!r}")
        super().__init__(*args, **kwargs)
        self.nonlinearity = nonlinearity


class TTGRU(_TTRecurrent):
    """A GRU whose input matrix is a tensor train: the twin of nn.GRU.

    r = s(W_r x + b_r + U_r h),  z = s(W_z x + b_z + U_z h),  n = tanh(W_n x + b_n + r * (U_n h + c)),
    h' = (1 - z) * n + z * h.   W_r, W_z and W_n are one TT-matrix D -> 3 H.

    Example:
        >>> gru = TTGRU((8, 20, 20, 18), (4, 4, 4, 4), ranks=4, batch_first=True)
        >>> gru.input_params
        3232
        >>> output, h_n = gru(torch.zeros(2, 5, 120, 160, 3, dtype=torch.uint8), lengths=[5, 3])
        >>> output.shape, h_n.shape
        (torch.Size([2, 5, 256]), torch.Size([1, 2, 256]))

    Args:
        in_modes: M_1..M_d; their product is the frame size D.
        hidden_modes: N_1..N_d; their product is the hidden size H.
        ranks: One number or the d-1 inner ranks; layers above the first use the same. One mode and no ranks: dense.
        num_layers: Layers stacked; each above the first takes the one below through a TT-matrix.
        bias: Learn biases.
        batch_first: Input and output as (B, T, ...) instead of (T, B, ...).
        dropout: Between layers, as in torch.
        bidirectional: A second direction from the last frame to the first.
        recurrent_ranks: None for a dense recurrent matrix U (as in the paper); ranks make it a tensor train too.
        recurrent_dropout: On the hidden state where it enters U; one mask per clip (Gal and Ghahramani, 2016).
        differences: What the first layer sees: "none" the frames, "only" the difference of each to the one before (zero
            for the first), "extra" both, each with weights of its own. The weights that differences take are multiplied
            with frames, and the products subtracted: no difference of frames is ever made.
        input_dropout: On what the input adds to the gates of the first layer, bias included; one mask per clip (Gal and
            Ghahramani, 2016).
        mean: Subtracted from the input; one number or one per channel of frames stored channels-last.
        scale: Multiplied with the input after that.
        compute_dtype: Of the first layer's products with the input, see TTLinear: torch.bfloat16 is about twice as fast
            where the hardware has it.
        device: Of the parameters.
        dtype: Of the parameters.
    """

    cell = "gru"
    dense_twin = nn.GRU


class TTLSTM(_TTRecurrent):
    """An LSTM whose input matrix is a tensor train: the twin of nn.LSTM. Arguments: see TTGRU.

    i, f, o = s(W x + b + U h),  g = tanh(W_g x + b_g + U_g h),  c' = f * c + i * g,  h' = o * tanh(c').
    The four W are one TT-matrix D -> 4 H; the forget gate's bias starts at 1.
    """

    cell = "lstm"
    dense_twin = nn.LSTM

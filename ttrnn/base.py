"""The base of TTRNN, TTGRU and TTLSTM: parameters, packing, layers and directions, streams.

Legend: B batch, T time, F frames (packed B and T), D frame size, H hidden size, G gates, L layers times directions.

All frames are multiplied with the input matrix at once, before the loop over time; the gates share one TT-matrix, with
the gate on its first output mode. Source: Yang et al., ICML 2017, equations 5-13.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ttrnn.linear import TTLinear, TTMatrix
from ttrnn.packing import Frames
from ttrnn.plain import eager
from ttrnn.scan import masked, moving, scan
from ttrnn.shapes import DIFFERENCES, NUM_GATES, Ranks, gate_modes, input_out_modes

__all__ = ["TTRecurrent"]

# For each layer and direction, the masks of input_dropout and recurrent_dropout.
_Masks = dict[str, tuple[Tensor | None, Tensor | None]]


class TTRecurrent(nn.Module):
    """The base of the three cells; see TTGRU for the arguments and shapes."""

    cell: ClassVar[str]
    dense_class: ClassVar[Any]

    def __init__(
        self,
        in_modes: Sequence[int],
        hidden_modes: Sequence[int],
        ranks: Ranks = (),
        *,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        recurrent_ranks: Ranks | None = None,
        recurrent_dropout: float = 0.0,
        differences: str = "none",
        input_dropout: float = 0.0,
        factorization: str = "tt",
        recurrent_factorization: str = "tt",
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
        if recurrent_factorization != "tt" and recurrent_ranks is None:
            raise ValueError(f"recurrent_factorization {recurrent_factorization!r} needs recurrent_ranks, got None")
        self.hidden_modes = tuple(hidden_modes)
        self.input_size, self.hidden_size = math.prod(in_modes), math.prod(hidden_modes)
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.recurrent_dropout, self.bidirectional = dropout, recurrent_dropout, bidirectional
        self.recurrent_ranks, self.differences, self.input_dropout = recurrent_ranks, differences, input_dropout
        self.factorization, self.recurrent_factorization = factorization, recurrent_factorization
        self.num_directions = 2 if bidirectional else 1
        first = {"mean": mean, "scale": scale, "compute_dtype": compute_dtype}
        self._build(in_modes, ranks, first, {"device": device, "dtype": dtype})
        self.reset_parameters()

    def _build(self, in_modes: Sequence[int], ranks: Ranks, first: dict[str, Any], options: dict[str, Any]) -> None:
        """Registers the parameters of all layers and directions, without values; `first` are options of the first."""
        hidden_modes, num_gates = self.hidden_modes, NUM_GATES[self.cell]
        out_modes, num_rows = gate_modes(hidden_modes, num_gates), num_gates * self.hidden_size
        for layer, suffix in self._directions():
            below = tuple(in_modes) if layer == 0 else (self.num_directions * hidden_modes[0], *hidden_modes[1:])
            # The bias comes after differences are taken, or it would cancel.
            apart = layer == 0 and self.differences != "none"
            modes = input_out_modes(hidden_modes, num_gates, self.differences if apart else "none")
            own = {**options, "factorization": self.factorization, **({} if layer else first)}
            self.add_module(f"ih_{suffix}", TTLinear(below, modes, ranks, self.bias and not apart, **own))
            if apart and self.bias:
                setattr(self, f"bias_ih_{suffix}", nn.Parameter(torch.empty((num_rows,), **options)))
            if self.recurrent_ranks is None:
                setattr(self, f"weight_hh_{suffix}", nn.Parameter(torch.empty((num_rows, self.hidden_size), **options)))
            else:
                own = {**options, "factorization": self.recurrent_factorization}
                matrix = TTMatrix(hidden_modes, out_modes, self.recurrent_ranks, False, **own)
                self.add_module(f"hh_{suffix}", matrix)
            if self.cell == "gru" and self.bias:
                setattr(self, f"bias_hn_{suffix}", nn.Parameter(torch.empty((self.hidden_size,), **options)))

    def _suffixes(self, layer: int) -> list[str]:
        """Of the names of a layer's parameters, for each direction."""
        return [f"l{layer}", f"l{layer}_reverse"][: self.num_directions]

    def _directions(self) -> Iterator[tuple[int, str]]:
        """(layer, suffix), in the order of torch's h_n."""
        return ((layer, suffix) for layer in range(self.num_layers) for suffix in self._suffixes(layer))

    @torch.no_grad()
    def reset_parameters(self, input_gain: float = 1.0) -> None:
        """Tensor trains get rows of norm 1, biases 0 (an LSTM's forget gate 1), dense recurrent matrices as in torch.

        Orthogonal recurrent matrices lost 2 to 5 points of accuracy on lip reading. `input_gain` is the standard
        deviation of the first layer's gates for normalised frames.
        """
        for layer, suffix in self._directions():
            self._ih(suffix).reset_parameters(input_gain if layer == 0 else 1.0)
            if (bias := self._bias(suffix)) is not None:
                nn.init.zeros_(bias)
                if self.cell == "lstm":
                    bias[self.hidden_size : 2 * self.hidden_size].fill_(1.0)
            if self.recurrent_ranks is None:
                bound = 1 / math.sqrt(self.hidden_size)
                nn.init.uniform_(getattr(self, f"weight_hh_{suffix}"), -bound, bound)
            else:
                getattr(self, f"hh_{suffix}").reset_parameters()
            if self.cell == "gru" and self.bias:
                nn.init.zeros_(getattr(self, f"bias_hn_{suffix}"))

    def _ih(self, suffix: str) -> TTLinear:
        layer: TTLinear = getattr(self, f"ih_{suffix}")
        return layer

    def _bias(self, suffix: str) -> Tensor | None:
        """(G*H,) of the gates."""
        bias: Tensor | None = getattr(self, f"bias_ih_{suffix}", self._ih(suffix).bias)
        return bias

    @property
    def compute_dtype(self) -> torch.dtype | None:
        """Dtype of the first layer's products with the input, as in TTLinear; may be set at any time."""
        return self._ih("l0").compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype | None) -> None:
        for suffix in self._suffixes(0):
            self._ih(suffix).compute_dtype = dtype

    def flatten_parameters(self) -> None:
        """Does nothing; torch's layers have it."""

    def weight_hh(self, suffix: str = "l0") -> Tensor:
        """The recurrent matrix (G*H, H) of one layer and direction, multiplied out if it is a tensor train."""
        own: Any = getattr(self, f"weight_hh_{suffix}" if self.recurrent_ranks is None else f"hh_{suffix}")
        return own if self.recurrent_ranks is None else own()

    @property
    def input_params(self) -> int:
        """Input-to-hidden weights of the first layer (both directions), as papers count: no bias."""
        return sum(self._ih(suffix).format.num_params for suffix in self._suffixes(0))

    @property
    def num_params(self) -> int:
        """All parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    @eager
    def forward(
        self,
        input: Tensor | PackedSequence | Sequence[Tensor] | Frames,
        hx: Tensor | tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor | tuple[Tensor, Tensor]]:
        """Runs the layers over clips.

        Args:
            input: (T, B, *frame), or (B, T, *frame) if batch_first, or (T, D) without a batch, where the axes of a
                frame multiply to D; floating point, or uint8 as stored. Or a PackedSequence of (F, *frame). Or a list
                of clips (T_b, *frame) in any order: they are read where they lie, such as in a memory-mapped file.
            hx: Initial state (L, B, H), zero if None; a pair (h, c) for an LSTM. Without the axis B for (T, D).
            lengths: (B,) frames of each clip, at least 1; later ones are padding: never computed, zero in the output.

        Returns:
            The top layer's states, shaped as the input with the frame's axes replaced by directions times H, a
            PackedSequence for a list; and the final state h_n (L, B, H), or (h_n, c_n), clips in the caller's order.

        Raises:
            ValueError: frames of the wrong size or type, lengths outside 1..T, an empty list, unlike clips in a list.
        """
        frames = input if isinstance(input, Frames) else Frames.of(input, lengths, self.batch_first, self.input_size)
        output, finals, _ = self._run(frames, self._initial_state(hx, frames), None, self._masks(frames.num_clips))
        h_n = tuple(frames.unsort(part) for part in finals)
        return frames.unpack(output), h_n if len(h_n) > 1 else h_n[0]  # type: ignore[return-value]

    def step(self, input: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Takes one more frame (B, *frame) of each of B streams; raises ValueError for a bidirectional layer.

        Args:
            input: (B, *frame).
            state: As returned by the step before; None before the first.

        Returns:
            (B, H) the top layer's states, and the state: (hx, the products for differences to the next frame, or None),
            and in training also the masks of dropout, which a stream keeps.
        """
        if self.bidirectional:
            raise ValueError("a bidirectional layer starts at the last frame and can't take one at a time: use forward")
        frames = Frames(rows=input.reshape(len(input), self.input_size), batch_sizes=[len(input)])
        hx, previous, *kept = (None, None) if state is None else state
        masks = kept[0] if kept else self._masks(len(input))
        output, finals, previous = self._run(frames, self._initial_state(hx, frames), previous, masks)
        after = finals if len(finals) > 1 else finals[0], previous
        return output, (*after, masks) if masks else after

    def _run(
        self, frames: Frames, state: tuple[Tensor, ...], previous: Tensor | None, masks: _Masks
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        """The top layer's states (F, directions * H), the final ones (L, B, H) and `previous` for the next; packed."""
        x: Tensor | tuple[Tensor, ...] = frames.rows
        finals: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in self._suffixes(layer):
                input_mask, recurrent_mask = masks.get(suffix, (None, None))
                if layer == 0:
                    gates, order, kept = self._first_gates(suffix, frames, previous, input_mask)
                else:
                    gates, order = self._ih(suffix)(x), None
                output, final = scan(
                    self.cell,
                    gates,
                    self.weight_hh(suffix),
                    tuple(part[len(finals)] for part in state),
                    frames.batch_sizes,
                    bias_hn=getattr(self, f"bias_hn_{suffix}", None),
                    mask_BH=recurrent_mask,
                    nonlinearity=getattr(self, "nonlinearity", "tanh"),
                    reverse=suffix.endswith("_reverse"),
                    order=order,
                )
                outputs.append(output)
                finals.append(final)
            top = torch.cat(outputs, dim=1) if self.bidirectional else outputs[0]
            x = nn.functional.dropout(top, self.dropout, self.training) if layer < self.num_layers - 1 else top
        stacked = (parts[0][None] if len(parts) == 1 else torch.stack(parts) for parts in zip(*finals, strict=True))
        return top, tuple(stacked), kept

    def _masks(self, num_clips: int) -> _Masks:
        """Factors 0 or 1 / (1 - rate), one row for each clip, held for all of its frames; in training only."""
        if not self.training or not (self.input_dropout or self.recurrent_dropout):
            return {}
        ones = self._ih("l0").factors[0].new_ones(num_clips, self.hidden_size)
        wide, masks = ones.repeat(1, NUM_GATES[self.cell]), {}
        for layer, suffix in self._directions():
            of_input = nn.functional.dropout(wide, self.input_dropout) if layer == 0 and self.input_dropout else None
            of_state = nn.functional.dropout(ones, self.recurrent_dropout) if self.recurrent_dropout else None
            masks[suffix] = of_input, of_state
        return masks

    def _first_gates(
        self, suffix: str, frames: Frames, previous: Tensor | None, mask_BG: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(F, G*H) gates of the first layer, the order that packs them, and for differences the last frame's products,
        as `previous` are those of the frame before the first."""
        gates, sizes = self._ih(suffix)(frames.rows, frames.taken), frames.batch_sizes
        if self.differences == "none" and mask_BG is None:
            return gates, frames.row_order, None
        gates = frames.pack(gates)
        if self.differences != "none":
            size = NUM_GATES[self.cell] * self.hidden_size
            gates, previous = moving(gates, previous, size, sizes, self._bias(suffix))
        return masked(gates, mask_BG, sizes), None, previous

    def _initial_state(self, hx: Tensor | tuple[Tensor, Tensor] | None, frames: Frames) -> tuple[Tensor, ...]:
        """(L, B, H) parts of the state, clips in packed order."""
        num_parts = 2 if self.cell == "lstm" else 1
        shape = (self.num_layers * self.num_directions, frames.num_clips, self.hidden_size)
        if hx is None:
            weight = self._ih("l0").factors[0]
            return (torch.zeros(shape, device=weight.device, dtype=weight.dtype),) * num_parts
        parts = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        parts = parts if frames.batched else tuple(part.unsqueeze(1) for part in parts)
        if len(parts) != num_parts or any(part.shape != shape for part in parts):
            raise ValueError(
                f"hx must be {'a pair of tensors' if num_parts == 2 else 'a tensor'} of shape {shape}, "
                f"got {[tuple(part.shape) for part in parts]}"
            )
        return tuple(frames.sort(part) for part in parts)

    def extra_repr(self) -> str:
        """Parameters in all and in the input matrix."""
        return f"hidden_size={self.hidden_size}, input_params={self.input_params:,}, num_params={self.num_params:,}"

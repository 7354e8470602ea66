"""One step of a classifier in plain operators; everything that is the same for all frames is computed beforehand.

Legend: B batch, M / N input / output size, M_k / N_k input / output mode k, R / S left / right rank, G gates, H hidden
size, L layers, C classes.

The cores are multiplied one by one, from the last to the first (Yang et al., ICML 2017, equation 4): the least
arithmetic, and no tensor train is ever multiplied out.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ttrnn.linear import TTLinear
from ttrnn.plain import advance, chain, core_matrices

__all__ = ["Step", "step_state"]


def step_state(model: Any, batch: int) -> dict[str, Tensor]:
    """The state of streams before their first frame, by the names it has in files: all zero.

    With differences, `previous` is what the first layer's input matrix made of the frame before, or with a stem that
    frame itself, uint8.
    """
    config, like = model.config, model.head.weight
    shape = (config.num_layers, batch, config.hidden_size)
    state = {"h_0": like.new_zeros(shape)}
    if config.cell == "lstm":
        state["c_0"] = like.new_zeros(shape)
    if model.stem is not None:
        state |= {f"{name}_0": part for name, part in model.stem.state(batch).items()}
    elif config.differences != "none":
        state |= {"previous_0": like.new_zeros(batch, len(model.rnn.bias_ih_l0)), "seen_0": like.new_zeros(batch, 1)}
    return state | {f"{name}_0": part for name, part in model.pooling.state(like.new_zeros(batch)).items()}


class _Product(nn.Module):
    """x (B, M) -> W x (B, N), core by core."""

    def __init__(self, matrices: Iterable[Tensor], out_modes: Sequence[int]) -> None:
        super().__init__()
        # Contiguous for the products, and copied, as torch.export needs its weights.
        whole = torch.contiguous_format
        self.matrices = nn.ParameterList(matrix.detach().clone(memory_format=whole) for matrix in matrices)
        self.out_modes = tuple(out_modes)

    @classmethod
    def of(cls, layer: TTLinear) -> "_Product":
        """With the layer's scale folded in."""
        first, *rest = layer.cores
        return cls(core_matrices((first * layer.scale, *rest)), layer.shape.out_modes)

    def forward(self, x_BM: Tensor) -> Tensor:
        return chain(x_BM, list(self.matrices), self.out_modes)


class _Layer(nn.Module):
    """One frame through one recurrent layer, by the formulas of TTRNN, TTGRU and TTLSTM."""

    def __init__(self, model: Any, suffix: str) -> None:
        super().__init__()
        self.cell = model.config.cell
        self.differences = model.config.input_differences if suffix == "l0" else "none"
        ih: TTLinear = getattr(model.rnn, f"ih_{suffix}")
        self.ih = _Product.of(ih)
        # The product of a frame of zeros contains the mean. A copy: torch.export warns about views of larger tensors.
        self.of_zeros = nn.Parameter(ih(ih.factors[0].new_zeros(1, ih.in_features))[0].detach().clone())
        if self.differences != "none":
            self.bias: Tensor = getattr(model.rnn, f"bias_ih_{suffix}")
        if model.config.recurrent_matrix is None:
            weight = model.rnn.weight_hh(suffix)
            self.hh = _Product([weight], weight.shape[:1])
        else:
            self.hh = _Product.of(getattr(model.rnn, f"hh_{suffix}"))
        self.bias_hn: Tensor | None = getattr(model.rnn, f"bias_hn_{suffix}", None)

    def gates(self, x: Tensor, *before: Tensor) -> tuple[Tensor, ...]:
        """The gates; and, for the differences of the next frame, its `before`."""
        products = self.ih(x) + self.of_zeros
        if self.differences == "none":
            return (products,)
        previous, seen = before
        moved = products[:, -self.bias.shape[0] :]
        gates = moved - torch.where(seen > 0, previous, moved) + self.bias
        if self.differences == "extra":
            gates = gates + products[:, : self.bias.shape[0]]
        return gates, moved, torch.ones_like(seen)

    def forward(self, gates: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        return tuple(advance(self.cell, gates, self.hh(state[0]), state, self.bias_hn))


class Step(nn.Module):
    """frame, *state -> logits, scores, *state, see step_state; of a model in eval mode, with the weights it has now."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(model, f"l{number}") for number in range(model.config.num_layers))
        self.num_parts = 2 if model.config.cell == "lstm" else 1
        self.num_kept = 0 if model.config.differences == "none" else 2
        self.stem = model.stem
        self.pooling, self.head, self.scores = model.pooling, model.head, model.probabilities

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        recurrent, kept = state[: self.num_parts], state[self.num_parts : self.num_parts + self.num_kept]
        x, finals, after = frame.flatten(1).to(self.head.weight.dtype), [], []
        if self.stem is not None:
            (x, *after), kept = self.stem.step(frame, *kept), ()
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            if number == 0:
                gates, *moved = layer.gates(x, *kept)
                after += moved
            else:
                (gates,) = layer.gates(x)
            finals.append(layer(gates, *(part[number] for part in recurrent)))
            x = finals[-1][0]
        result = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
        x, *pooled = self.pooling.step(x, *state[self.num_parts + self.num_kept :])
        logits = self.head(x)
        return logits, self.scores(logits), *result, *after, *pooled

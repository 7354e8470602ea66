"""TTRNN, TTGRU, TTLSTM: drop-in counterparts of nn.RNN, nn.GRU and nn.LSTM whose input matrix is a tensor train.

Legend: D frame size, H hidden size, M_k / N_k input / hidden mode k.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import nn

from ttrnn.base import TTRecurrent
from ttrnn.shapes import Ranks, even_modes

__all__ = ["TTGRU", "TTLSTM", "TTRNN"]


class _Convertible(TTRecurrent):
    """A layer with a counterpart in torch.nn."""

    # Arguments that both layers have.
    _shared: ClassVar[tuple[str, ...]] = ("num_layers", "bias", "batch_first", "dropout", "bidirectional")

    @torch.no_grad()
    def to_dense(self) -> nn.RNN | nn.GRU | nn.LSTM:
        """The torch.nn layer with equal outputs, final state and gradients for float input.

        The cores are multiplied out, and the normalisation is folded into weights and bias. Dropout of input and
        recurrence, which torch lacks, is left out.

        Raises:
            ValueError: the layer sees differences of frames, or has a mean and no bias to fold it into.
        """
        if self.differences != "none":
            raise ValueError(f"differences {self.differences!r} have no dense counterpart: torch takes frame by frame")
        first = self._ih("l0").factors[0]
        shared = {name: getattr(self, name) for name in self._shared}
        dense = self.dense_class(self.input_size, self.hidden_size, device=first.device, dtype=first.dtype, **shared)
        for _, suffix in self._directions():
            ih = self._ih(suffix)
            folded = ih.to_dense()
            getattr(dense, f"weight_ih_{suffix}").copy_(folded.weight)
            getattr(dense, f"weight_hh_{suffix}").copy_(self.weight_hh(suffix))
            if self.bias:
                getattr(dense, f"bias_ih_{suffix}").copy_(folded.bias)
                bias_hh = getattr(dense, f"bias_hh_{suffix}").zero_()
                if self.cell == "gru":
                    bias_hh[2 * self.hidden_size :] = getattr(self, f"bias_hn_{suffix}")
            elif ih.centred:
                raise ValueError("a layer with a mean needs bias=True to have a dense counterpart")
        return dense

    @classmethod
    @torch.no_grad()
    def from_dense(
        cls,
        dense: nn.RNNBase,
        in_modes: Sequence[int] | None = None,
        hidden_modes: Sequence[int] | None = None,
        ranks: Ranks = 0.1,
        *,
        num_modes: int = 4,
        recurrent_ranks: Ranks | None = None,
        **options: Any,
    ) -> Self:
        """The layer nearest to one of torch's, by TT-SVD of its matrices: about the same outputs and final state.

        Args:
            dense: The nn.RNN, nn.GRU or nn.LSTM that this class is the counterpart of.
            in_modes: M_1..M_d; None for `num_modes` even ones.
            hidden_modes: N_1..N_d; None for as many even ones.
            ranks: Of the input matrices: one number, d-1 inner ranks, or a share of the dense parameters, such as 0.1.
            num_modes: d, where modes are not given.
            recurrent_ranks: None keeps the recurrent matrix dense.
            options: As of TTGRU: factorization and recurrent_factorization (other formats than tt take no share); mean,
                scale and compute_dtype, for a layer that was trained on normalised frames.

        Raises:
            ValueError: another kind of layer, an LSTM with projections, or modes and ranks that do not fit.
        """
        if type(dense) is not cls.dense_class or dense.proj_size:
            raise ValueError(f"{cls.__name__} takes an nn.{cls.dense_class.__name__} without projections, got {dense}")
        shared = {name: getattr(dense, name) for name in cls._shared}
        options |= {"device": dense.weight_ih_l0.device, "dtype": dense.weight_ih_l0.dtype}
        hidden_modes = even_modes(dense.hidden_size, num_modes) if hidden_modes is None else hidden_modes
        in_modes = even_modes(dense.input_size, len(hidden_modes)) if in_modes is None else in_modes
        layer = cls(in_modes, hidden_modes, ranks, recurrent_ranks=recurrent_ranks, **shared, **options)
        if (layer.input_size, layer.hidden_size) != (dense.input_size, dense.hidden_size):
            raise ValueError(
                f"modes must multiply to {dense.input_size:,} and {dense.hidden_size:,}, "
                f"got {layer.input_size:,} and {layer.hidden_size:,}"
            )
        for _, suffix in layer._directions():
            layer._ih(suffix).approximate_(getattr(dense, f"weight_ih_{suffix}"))
            recurrent = getattr(dense, f"weight_hh_{suffix}")
            if recurrent_ranks is None:
                layer.weight_hh(suffix).copy_(recurrent)
            else:
                getattr(layer, f"hh_{suffix}").approximate_(recurrent)
            if (bias := layer._bias(suffix)) is None:
                continue
            # One bias is the sum of torch's two, but for the part inside a GRU's reset gate.
            bias_ih, bias_hh = (getattr(dense, f"bias_{kind}_{suffix}") for kind in ("ih", "hh"))
            bias.copy_(bias_ih + bias_hh)
            if cls.cell == "gru":
                bias[2 * layer.hidden_size :] = bias_ih[2 * layer.hidden_size :]
                getattr(layer, f"bias_hn_{suffix}").copy_(bias_hh[2 * layer.hidden_size :])
        return layer


class TTRNN(_Convertible):
    """h' = tanh(W x + b + U h), with W a tensor train: the counterpart of nn.RNN. Arguments: see TTGRU.

    Args:
        nonlinearity: "tanh" or "relu"; keyword only.
    """

    cell = "rnn"
    dense_class = nn.RNN
    _shared = (*_Convertible._shared, "nonlinearity")

    def __init__(self, *args: Any, nonlinearity: str = "tanh", **kwargs: Any) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be tanh or relu, got {nonlinearity!r}")
        super().__init__(*args, **kwargs)
        self.nonlinearity = nonlinearity


class TTGRU(_Convertible):
    """A GRU whose input matrix is a tensor train: the counterpart of nn.GRU.

    r = s(W_r x + b_r + U_r h),  z = s(W_z x + b_z + U_z h),  n = tanh(W_n x + b_n + r * (U_n h + c)),
    h' = (1 - z) * n + z * h.   W_r, W_z and W_n are one TT-matrix D -> 3 H.

    Examples:
        >>> gru = TTGRU((8, 20, 20, 18), (4, 4, 4, 4), ranks=4, batch_first=True)
        >>> gru.input_params
        3232
        >>> output, h_n = gru(torch.zeros(2, 5, 120, 160, 3, dtype=torch.uint8), lengths=[5, 3])
        >>> output.shape, h_n.shape
        (torch.Size([2, 5, 256]), torch.Size([1, 2, 256]))

    Args:
        in_modes: M_1..M_d; their product is the frame size D.
        hidden_modes: N_1..N_d; their product is the hidden size H.
        ranks: One number, the d-1 inner ranks, or a share of the dense parameters such as 0.1, for the input matrices
            of all layers. One mode and no ranks: dense.
        num_layers: Layers stacked; each above the first takes the one below through a TT-matrix.
        bias: Learn biases.
        batch_first: Input and output as (B, T, ...) instead of (T, B, ...).
        dropout: Between layers, as in torch.
        bidirectional: A second direction from the last frame to the first.
        recurrent_ranks: None for a dense recurrent matrix U (as in the paper); ranks make it a tensor train too.
        recurrent_dropout: On the hidden state where it enters U; one mask per clip (Gal and Ghahramani, 2016).
        differences: Input of the first layer: "none" the frames, "only" the difference of each to the one before (zero
            for the first), "extra" both, each with weights of its own. Products are subtracted, not frames.
        input_dropout: On what the input adds to the first layer's gates, bias included; one mask per clip.
        factorization: Format of the input matrices, as of TTLinear.
        recurrent_factorization: Format of the recurrent matrices where they have recurrent_ranks.
        mean: Subtracted from the input; one number or one per channel of frames stored channels-last.
        scale: Multiplied with the input after that.
        compute_dtype: Of the first layer's products with the input, see TTLinear.
        device: Of the parameters.
        dtype: Of the parameters.
    """

    cell = "gru"
    dense_class = nn.GRU


class TTLSTM(_Convertible):
    """An LSTM whose input matrix is a tensor train: the counterpart of nn.LSTM. Arguments: see TTGRU.

    i, f, o = s(W x + b + U h),  g = tanh(W_g x + b_g + U_g h),  c' = f * c + i * g,  h' = o * tanh(c').
    The four W are one TT-matrix D -> 4 H; the forget gate's bias starts at 1.
    """

    cell = "lstm"
    dense_class = nn.LSTM

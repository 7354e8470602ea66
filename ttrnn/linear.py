"""TTLinear: nn.Linear whose weight is a tensor train, or in another tensor format.

Legend: M / N input / output size, M_k / N_k input / output mode k, R ranks, G gates.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ttrnn.contract import dense_weight, tt_product
from ttrnn.decompose import balanced, tt_round, tt_svd
from ttrnn.fit import fitted
from ttrnn.formats import TT, make_format
from ttrnn.network import Format
from ttrnn.plain import eager
from ttrnn.planner import Plan, plan
from ttrnn.shapes import Ranks, even_modes, format_modes

__all__ = ["TTLinear", "TTMatrix"]


class TTLinear(nn.Module):
    """y = W ((x - mean) * scale) + b, with W kept as a tensor train.

    Normalisation costs nothing per frame (uint8, as stored): scale goes into a core, the mean into a constant vector.

    Examples:
        >>> layer = TTLinear((8, 20, 20, 18), (4, 4, 4, 4), ranks=4)
        >>> layer(torch.zeros(16, 57600, dtype=torch.uint8)).shape
        torch.Size([16, 256])

    Args:
        in_modes: M_1..M_d; their product is the input size.
        out_modes: N_1..N_d; their product is the output size.
        ranks: One number, the d-1 inner ranks, or a share of the dense parameters such as 0.1; clipped to what the
            modes allow. One pair of modes and no ranks is the dense matrix.
        bias: Learn an additive bias, as nn.Linear does.
        factorization: The format of W: tt, cp, tucker, ht, tr, bt, low-rank or block-diagonal; formats.py says what the
            ranks mean. Its parameters are `factors`; `cores` is the tensor train that they make.
        mean: Subtracted from the input: one number, or one for each channel of frames stored channels-last.
        scale: Multiplied with the input after that.
        compute_dtype: Of the products with the input, see tt_product; may be set at any time. torch.bfloat16 is about
            twice as fast where `supports_bfloat16`; parameters, gradients and results keep `dtype`. None: `dtype`, or
            autocast's where that is on.
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        input (*, M) float or uint8, or any trailing axes that multiply to M after `flatten`; output (*, N).

    Raises:
        ValueError: see TTShape; or an input whose last axis is not M.
    """

    def __init__(
        self,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        ranks: Ranks = (),
        bias: bool = True,
        *,
        factorization: str = "tt",
        mean: float | Sequence[float] = 0.0,
        scale: float = 1.0,
        compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if compute_dtype not in (None, torch.float64, torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(
                f"compute_dtype must be None or a floating dtype of 2 bytes or more, got {compute_dtype!r}"
            )
        self.compute_dtype = compute_dtype
        self._take(make_format(factorization, in_modes, out_modes, ranks))
        self.in_features, self.out_features = self.shape.in_features, self.shape.out_features
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        parameters = (torch.empty(shape, **options) for shape in self.format.parameter_shapes)
        setattr(self, self.format.stored, nn.ParameterList(parameters))
        self.bias = nn.Parameter(torch.empty(self.out_features, **options)) if bias else None
        values = mean.flatten().tolist() if isinstance(mean, Tensor) else mean if isinstance(mean, Iterable) else [mean]
        self.channel_mean_values = tuple(map(float, values))
        if self.in_features % len(self.channel_mean_values):
            raise ValueError(
                f"mean has {len(self.channel_mean_values)} channels, which do not divide {self.in_features:,} inputs"
            )
        # A setting of the layer, not a parameter: no entry of the state dict.
        empty = torch.empty(len(self.channel_mean_values), **options)
        self.channel_mean: Tensor
        self.register_buffer("channel_mean", empty, persistent=False)
        self.scale = float(scale)
        self.centred = any(self.channel_mean_values)
        self.reset_parameters()

    def _take(self, form: Format) -> None:
        self.format, self.shape = form, form.shape

    @property
    def factors(self) -> nn.ParameterList:
        """The parameters of W in its format; of a tensor train the cores."""
        return cast(nn.ParameterList, self._modules[self.format.stored])

    @property
    def cores(self) -> Sequence[Tensor]:
        """Gk of shape (R_{k-1}, M_k, N_k, R_k), of a tensor train the parameters, else made of them, differentiable."""
        # Of a tensor train the list itself, in which get_parameter looks.
        return self.format.cores(cast(Sequence[Tensor], self.factors))

    @torch.no_grad()
    def reset_parameters(self, gain: float = 1.0) -> None:
        """Rows of W get norm `gain`, the standard deviation of the output for normalised input; the bias 0."""
        self.format.reset_(list(self.factors), gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.channel_mean.copy_(torch.tensor(self.channel_mean_values, dtype=self.channel_mean.dtype, device="cpu"))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Adds the normalisation, which the meaning of the weights depends on, to the metadata."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]]["normalisation"] = (self.channel_mean_values, self.scale)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *others: Any) -> None:
        own = (self.channel_mean_values, self.scale)
        if (saved := local_metadata.get("normalisation", own)) != own:
            others[-1].append(
                f"{prefix or 'the layer '}was saved with mean {list(saved[0])} and scale {saved[1]:g}, and has mean "
                f"{list(own[0])} and scale {own[1]:g}: its outputs would be others; dict(state) gives the weights alone"
            )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    @property
    def mean(self) -> Tensor:
        """(M,) subtracted from the input."""
        if len(self.channel_mean_values) == 1:
            return self.channel_mean.expand(self.in_features)
        return self.channel_mean.repeat(self.in_features // len(self.channel_mean_values))

    @property
    def num_params(self) -> int:
        """Parameters, bias included."""
        return self.format.num_params + (self.out_features if self.bias is not None else 0)

    @eager
    def forward(self, input: Tensor | Sequence[Tensor], order: Tensor | None = None) -> Tensor:
        """The product; uint8 frames stream without a float copy of them all.

        Args:
            input: (*, M) for an output (*, N); or several of these, for the output of all their rows, (F, N).
            order: (F,) which rows of an input (rows, M) to take, none twice, for an output (F, N); None for all.
        """
        tensors = (input,) if isinstance(input, Tensor) else tuple(input)
        if not tensors:
            raise ValueError("there must be at least one input, got an empty list")
        for tensor in tensors:
            if tensor.shape[-1] != self.in_features:
                raise ValueError(
                    f"the last axis of the input must be {self.in_features:,} "
                    f"({format_modes(self.shape.in_modes)}), got shape {tuple(tensor.shape)}"
                )
        y = tt_product(
            [tensor.reshape(-1, self.in_features) for tensor in tensors],
            list(self.cores),
            self.shape,
            self.bias,
            mean=self.mean if self.centred else None,
            scale=self.scale,
            order=order,
            dtype=self.compute_dtype,
        )
        return y.view(*input.shape[:-1], self.out_features) if isinstance(input, Tensor) and order is None else y

    def plan(self, num_rows: int = 256, dtype: torch.dtype = torch.uint8, *, input_gradient: bool = False) -> Plan:
        """Which cores are merged for a product with `num_rows` rows of `dtype`, and the MACs."""
        itemsize = (self.compute_dtype or self.factors[0].dtype).itemsize
        return plan(self.shape, num_rows, itemsize=itemsize, row_itemsize=dtype.itemsize, input_gradient=input_gradient)

    @property
    def weight(self) -> Tensor:
        """W (N, M) multiplied out, differentiable, without normalisation. Meant for small layers."""
        return dense_weight(list(self.cores))

    @classmethod
    def from_dense(
        cls,
        linear: nn.Linear,
        in_modes: Sequence[int] | None = None,
        out_modes: Sequence[int] | None = None,
        ranks: Ranks | None = None,
        *,
        num_modes: int = 4,
        relative_error: float | None = None,
        **options: Any,
    ) -> "TTLinear":
        """The layer nearest to a dense one, by TT-SVD (decompose.py has the error), or in another format by fit.py.

        Args:
            linear: Its weight is decomposed; its bias, dtype and device are kept.
            in_modes: M_1..M_d; their product is `linear.in_features`. None for `num_modes` even ones.
            out_modes: N_1..N_d; their product is `linear.out_features`. None for as many even ones.
            ranks: As of TTLinear.
            num_modes: d, where modes are not given.
            relative_error: In place of ranks: the lowest ranks that keep ||W - W_TT|| / ||W|| within it.
            options: factorization, mean, scale, compute_dtype: the layer is then near to `linear((x - mean) * scale)`.

        Raises:
            ValueError: see tt_svd and, for other formats, fitted; only a tensor train takes a relative_error.
        """
        weight = linear.weight
        num_modes = len(in_modes or out_modes or range(num_modes))
        in_modes = in_modes or even_modes(linear.in_features, num_modes)
        out_modes = out_modes or even_modes(linear.out_features, num_modes)
        options |= {"device": weight.device, "dtype": weight.dtype}
        if ranks is None or relative_error is not None:
            if (name := options.get("factorization", "tt")) != "tt":
                raise ValueError(f"format {name} needs ranks, got ranks={ranks} and relative_error={relative_error}")
            ranks = tt_svd(weight, in_modes, out_modes, ranks, relative_error=relative_error).shape.ranks
        layer = cls(in_modes, out_modes, ranks, linear.bias is not None, **options)
        with torch.no_grad():
            layer.approximate_(weight)
            if layer.bias is not None:
                layer.bias.copy_(linear.bias)
        return layer

    def round_(self, ranks: Ranks | None = None, *, relative_error: float | None = None) -> float:
        """Rounds W to lower ranks, in place; returns the error ||W - W'|| / ||W||, Frobenius.

        The factors become new Parameters, so an optimizer must be built anew. All else stays: bias, normalisation,
        requires_grad. Arguments and errors: see tt_round; other formats than tensor trains take ranks, see fit.py.
        """
        if isinstance(self.format, TT):
            near = tt_round(list(self.factors), ranks, relative_error=relative_error)
            form: Format = dataclasses.replace(self.format, ranks=near.shape.ranks)
            found, error = near.cores, near.relative_error
        elif ranks is None or relative_error is not None:
            raise ValueError(f"format {self.format.name} is rounded to ranks, got relative_error={relative_error}")
        else:
            form = make_format(self.format.name, self.format.in_modes, self.format.out_modes, ranks)
            found, error = fitted(form, self.weight)
        for number, part in enumerate(found):
            old = self.factors[number]
            self.factors[number] = nn.Parameter(part.to(old), old.requires_grad)
        self._take(form)
        return error

    @torch.no_grad()
    def approximate_(self, other: "TTLinear | Tensor") -> float:
        """Approximates a dense matrix (N, M), or the weight of another layer, at the ranks of this layer.

        Bias and normalisation stay. The factors come balanced. Ranks that exceed what the matrix needs lead from the
        start values of one core to zeros of the next: they add nothing, and can be learnt.

        Returns:
            ||W - W'|| / ||W||, Frobenius, without normalisation.

        Raises:
            ValueError: see tt_svd and, for other formats, fitted.
        """
        if not isinstance(self.format, TT):
            found, error = fitted(self.format, other.weight if isinstance(other, TTLinear) else other)
            for factor, part in zip(self.factors, found, strict=True):
                factor.copy_(part)
            return error
        modes, ranks = (self.shape.in_modes, self.shape.out_modes), self.shape.ranks
        if isinstance(other, TTLinear) and (other.shape.in_modes, other.shape.out_modes) == modes:
            near = tt_round(list(other.cores), ranks)
        else:
            near = tt_svd(other.weight if isinstance(other, TTLinear) else other, *modes, ranks)
        for core, part in zip(self.factors, balanced(near.cores), strict=True):
            r, _, _, s = part.shape
            core[r:] = 0
            core[:r, :, :, :s] = part
        return near.relative_error

    def to_dense(self) -> nn.Linear:
        """The nn.Linear with equal outputs: cores multiplied out, normalisation folded into weight and bias."""
        first = self.factors[0]
        centred = self.bias is not None or self.centred
        dense = nn.Linear(self.in_features, self.out_features, bias=centred, device=first.device, dtype=first.dtype)
        with torch.no_grad():
            dense.weight.copy_(self.weight * self.scale)
            if centred:
                dense.bias.copy_((0 if self.bias is None else self.bias) - dense.weight @ self.mean)
        return dense

    def extra_repr(self) -> str:
        """Shape, parameters, compression, and the plan for 256 frames."""
        weights, dense = self.format.num_params, self.shape.num_dense_params
        counts = f"{weights:,} weights for {dense:,} ({dense / weights:,.0f}x fewer)"
        return f"{self.format}, bias={self.bias is not None}, {counts}, merged to {self.plan()}"


class TTMatrix(TTLinear):
    """A matrix in a tensor format whose call returns its matrix, so that the hooks of a module (FSDP's, say) see it."""

    def forward(self, *_: Any) -> Tensor:
        return self.weight

"""TTLinear: nn.Linear whose weight is a tensor train.

Legend: M / N input / output size, M_k / N_k input / output mode k, R ranks, G gates.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ttrnn.contract import dense_weight, tt_product
from ttrnn.init import orthogonal_cores_
from ttrnn.shapes import TTShape, format_modes

__all__ = ["TTLinear"]


class TTLinear(nn.Module):
    """y = W ((x - mean) * scale) + b, with W kept as a tensor train.

    Normalisation is part of the layer so that frames can come in as they are stored (uint8): the scale is folded into
    a core and the mean into one constant vector, at no cost per frame.

    Example:
        >>> layer = TTLinear((8, 20, 20, 18), (4, 4, 4, 4), ranks=4)
        >>> layer(torch.zeros(16, 57600, dtype=torch.uint8)).shape
        torch.Size([16, 256])

    Args:
        in_modes: M_1..M_d; their product is the input size.
        out_modes: N_1..N_d; their product is the output size.
        ranks: One number, or the d-1 inner ranks; clipped to what the modes allow. One pair of modes and no ranks is
            the dense matrix.
        bias: Learn an additive bias, as nn.Linear does.
        mean: Subtracted from the input: one number, or one for each channel of frames stored channels-last.
        scale: Multiplied with the input after that.
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
        ranks: int | Sequence[int] = (),
        bias: bool = True,
        *,
        mean: float | Sequence[float] = 0.0,
        scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.shape = TTShape(in_modes, out_modes, ranks)
        self.in_features, self.out_features = self.shape.in_features, self.shape.out_features
        self.cores = nn.ParameterList(
            torch.empty(shape, device=device, dtype=dtype) for shape in self.shape.core_shapes
        )
        self.bias = nn.Parameter(torch.empty(self.out_features, device=device, dtype=dtype)) if bias else None
        channel_mean = torch.as_tensor(mean, dtype=self.cores[0].dtype, device=device).reshape(-1)
        if self.in_features % len(channel_mean):
            raise ValueError(f"mean has {len(channel_mean)} channels, which do not divide {self.in_features:,} inputs")
        # A fact about the data, not learnt, and known to whoever builds the layer: not part of the state dict.
        self.register_buffer("channel_mean", channel_mean, persistent=False)
        self.channel_mean: Tensor
        self.scale = float(scale)
        self.centred = bool(channel_mean.any())
        self.reset_parameters()

    def reset_parameters(self, gain: float = 1.0) -> None:
        """Rows of W get norm `gain`: the standard deviation of the output for normalised input (init.py); bias 0."""
        orthogonal_cores_(list(self.cores), gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def mean(self) -> Tensor:
        """(M,) what is subtracted from the input."""
        return self.channel_mean.repeat(self.in_features // len(self.channel_mean))

    @property
    def num_params(self) -> int:
        """Parameters of this layer, bias included."""
        return self.shape.num_params + (self.out_features if self.bias is not None else 0)

    def forward(self, input: Tensor) -> Tensor:
        """The product, for any number of leading axes; streams uint8 frames without a float copy of them all."""
        if input.shape[-1] != self.in_features:
            raise ValueError(
                f"the last axis of the input must be {self.in_features:,} "
                f"({format_modes(self.shape.in_modes)}), got shape {tuple(input.shape)}"
            )
        first, *rest = self.cores
        cores = [first * self.scale, *rest]
        y = tt_product(input.reshape(-1, self.in_features), cores, self.shape)
        if self.centred:
            y = y - tt_product(self.mean.unsqueeze(0), cores, self.shape)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        return y.view(*input.shape[:-1], self.out_features)

    def weight(self) -> Tensor:
        """W multiplied out, (N, M), differentiable, normalisation not included. Meant for small layers."""
        return dense_weight(list(self.cores))

    def to_dense(self) -> nn.Linear:
        """The nn.Linear with equal outputs: cores multiplied out, normalisation folded into weight and bias."""
        first = self.cores[0]
        centred = self.bias is not None or self.centred
        dense = nn.Linear(self.in_features, self.out_features, bias=centred, device=first.device, dtype=first.dtype)
        with torch.no_grad():
            dense.weight.copy_(self.weight() * self.scale)
            if centred:
                bias = torch.zeros_like(dense.bias) if self.bias is None else self.bias
                dense.bias.copy_(bias - dense.weight @ self.mean)
        return dense

    def extra_repr(self) -> str:
        """Shape, parameters and compression."""
        ratio = self.shape.num_dense_params / self.shape.num_params
        return (
            f"{self.shape}, bias={self.bias is not None}, {self.shape.num_params:,} weights for "
            f"{self.shape.num_dense_params:,} ({ratio:,.0f}x fewer)"
        )

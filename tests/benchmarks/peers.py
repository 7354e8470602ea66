"""Build the contenders: recurrent layers of several libraries whose input matrix is a tensor train, or dense.

Legend: B batch, T time, F frames (B and T together), D frame size, H hidden size, M_k / N_k input / output mode k,
R / S left / right rank.

All take uint8 frames (B, T, D), return the last hidden state (B, H), and have the weights of one ttrnn layer, so that
`check` can compare their results. The wrapper of each library is the fastest one that we know:

- frames are normalised in place, with one float copy;
- all gates are in one TT-matrix with the modes and ranks of ttrnn, and the same number of parameters;
- the product is computed before the loop over time: for all frames at once in tensorly-torch; in blocks of 8 frames,
  which stay in the cache, in tednet and torchTT, where that is twice as fast. tednet's TTLSTM is also run unchanged;
- tensorly-torch is run without opt_einsum, as pip installs it, and with it, which makes torch.einsum ten times faster.

The LSTM of torch in float32 is run by default and without oneDNN, which makes it two to four times faster at these
shapes. tednet and torchTT fail under autocast ("both inputs should have same dtype") and are run in float32 only.
"""

import contextlib
import importlib.util
import io
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttrnn import TTGRU, TTLSTM, TTShape

__all__ = ["DENSE", "NATIVE", "OURS", "PAPER", "Problem", "build", "check", "contenders", "missing", "without_onednn"]

OURS, DENSE, NATIVE = "ttrnn", "torch.nn", "torch.nn without oneDNN"
MEAN, SCALE = 110.0, 1 / 60
# For a state between -1 and 1.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
PAPER = {
    "UCF11": (8, 20, 20, 18),
    "Hollywood2": (10, 18, 13, 30),
    "YouTube Celebrities": (4, 20, 20, 36),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The computation that is the same for all contenders."""

    cell: str = "lstm"
    in_modes: tuple[int, ...] = PAPER["UCF11"]
    hidden_modes: tuple[int, ...] = (4, 4, 4, 4)
    ranks: int = 4
    batch: int = 8
    time: int = 32

    @property
    def num_frames(self) -> int:
        """F."""
        return self.batch * self.time

    def frames(self) -> Tensor:
        """(B, T, D) uint8, the same on every call."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, self.time, math.prod(self.in_modes))
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    def layer(self) -> TTGRU | TTLSTM:
        """ttrnn's layer, with the same weights on every call."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            kind = {"gru": TTGRU, "lstm": TTLSTM}[self.cell]
            return kind(self.in_modes, self.hidden_modes, self.ranks, batch_first=True, mean=MEAN, scale=SCALE)


def _normalised(frames: Tensor) -> Tensor:
    return frames.float().sub_(MEAN).mul_(SCALE)


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    """Disables oneDNN, so that the kernels of torch are used."""
    with warnings.catch_warnings():
        # Restoring the flags warns about Intel GPUs.
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False):
            yield


class _Ours(nn.Module):
    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.layer = problem.layer()
        self.input_params = self.layer.input_params

    def forward(self, frames: Tensor) -> Tensor:
        output, _ = self.layer(frames)
        return output[:, -1]


class _Dense(nn.Module):
    """nn.GRU or nn.LSTM."""

    def __init__(self, problem: Problem, onednn: bool = True) -> None:
        super().__init__()
        ours = problem.layer()
        self.kernels = contextlib.nullcontext if onednn else without_onednn
        self.layer = ours.dense_class(ours.input_size, ours.hidden_size, batch_first=True)
        self.input_params = self.layer.weight_ih_l0.numel()
        with torch.no_grad():
            self.layer.weight_ih_l0.copy_(ours.ih_l0.weight)
            self.layer.weight_hh_l0.copy_(ours.weight_hh())
            self.layer.bias_ih_l0.copy_(ours.ih_l0.bias)
            self.layer.bias_hh_l0.copy_(_bias_hh(ours))

    def forward(self, frames: Tensor) -> Tensor:
        with self.kernels():
            output, _ = self.layer(_normalised(frames))
        return output[:, -1]


class _Autocast(nn.Module):
    """A contender in bfloat16; its parameters stay float32."""

    def __init__(self, contender: nn.Module) -> None:
        super().__init__()
        self.contender = contender

    def forward(self, frames: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.contender(frames).float()


class _Hoisted(nn.Module):
    """A library's TT linear layer on blocks of frames, then the recurrence as a loop under autograd."""

    def __init__(
        self,
        problem: Problem,
        linear: Callable[[TTShape, list[Tensor], Tensor], nn.Module],
        block: int,
        opt_einsum: bool = False,
    ) -> None:
        super().__init__()
        ours = problem.layer()
        self.cell, self.block, self.opt_einsum = problem.cell, block, opt_einsum
        self.linear = linear(ours.ih_l0.shape, [core.detach() for core in ours.ih_l0.cores], ours.ih_l0.bias.detach())
        self.weight_hh = nn.Parameter(ours.weight_hh().detach().clone())
        self.bias_hh = nn.Parameter(_bias_hh(ours))
        self.input_params = sum(parameter.numel() for parameter in self.linear.parameters()) - len(self.bias_hh)

    def forward(self, frames: Tensor) -> Tensor:
        with torch.backends.opt_einsum.flags(enabled=self.opt_einsum):
            blocks = frames.flatten(0, 1).split(self.block)
            gates = torch.cat([self.linear(_normalised(block)) for block in blocks]).unflatten(0, frames.shape[:2])
        h = c = gates.new_zeros(len(frames), self.weight_hh.shape[1])
        for x in gates.unbind(1):
            u = nn.functional.linear(h, self.weight_hh, self.bias_hh)
            if self.cell == "lstm":
                i, f, g, o = (x + u).chunk(4, dim=1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            else:
                (x_rz, x_n), (u_rz, u_n) = (part.tensor_split([2 * h.shape[1]], dim=1) for part in (x, u))
                r, z = torch.sigmoid(x_rz + u_rz).chunk(2, dim=1)
                h = torch.lerp(torch.tanh(x_n + r * u_n), h, z)
        return h


class _TednetLSTM(nn.Module):
    """The recurrent layer of tednet, which multiplies inside the loop over time."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        from tednet.tnn import tensor_train

        ours = problem.layer()
        shape = ours.ih_l0.shape
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a compression ratio
            self.layer = tensor_train.TTLSTM(
                list(shape.in_modes), list(problem.hidden_modes), list(shape.ranks), drop_ih=0.0, drop_hh=0.0
            )
        cell = self.layer.cell
        _load_tednet(cell.weight_ih, [core.detach() for core in ours.ih_l0.cores], ours.ih_l0.bias.detach())
        self.input_params = sum(p.numel() for p in cell.weight_ih.parameters()) - len(cell.bias_hh)
        with torch.no_grad():
            cell.weight_hh.copy_(ours.weight_hh())
            cell.bias_hh.zero_()

    def forward(self, frames: Tensor) -> Tensor:
        zero = torch.zeros(len(frames), self.layer.hidden_size)
        output, _ = self.layer(_normalised(frames).transpose(0, 1), (zero, zero))
        return output[-1]


def _bias_hh(ours: TTGRU | TTLSTM) -> Tensor:
    """The second bias of torch: zero except for the part inside the reset gate of a GRU."""
    bias = torch.zeros(len(ours.weight_hh()))
    if ours.cell == "gru":
        bias[-ours.hidden_size :] = ours.bias_hn_l0.detach()
    return bias


def _tednet(shape: TTShape, cores: list[Tensor], bias: Tensor) -> nn.Module:
    from tednet.tnn.tensor_train import TTLinear

    with contextlib.redirect_stdout(io.StringIO()):
        linear = TTLinear(list(shape.in_modes), list(shape.out_modes), list(shape.ranks))
    _load_tednet(linear, cores, bias)
    return linear


@torch.no_grad()
def _load_tednet(linear: nn.Module, cores: list[Tensor], bias: Tensor) -> None:
    for k, core in enumerate(cores):
        # (R, M, N, S) -> (M, N, R, S), without the ranks of 1 at both ends.
        value = core.permute(1, 2, 0, 3)
        value = value[:, :, 0] if k == 0 else value[..., 0] if k == len(cores) - 1 else value
        getattr(linear, f"node{k}").copy_(value)
    linear.bias.copy_(bias)


def _tensorly(shape: TTShape, cores: list[Tensor], bias: Tensor) -> nn.Module:
    import tltorch
    from tltorch.factorized_tensors import BlockTT

    # (R, M, N, S) -> (R, N, M, S)
    factors = [nn.Parameter(core.transpose(1, 2).contiguous()) for core in cores]
    weight = BlockTT(factors, tensorized_shape=(shape.out_modes, shape.in_modes), rank=shape.bonds)
    linear = tltorch.FactorizedLinear(shape.in_modes, shape.out_modes, factorization=weight)
    with torch.no_grad():
        linear.bias.copy_(bias)
    return linear


def _torchtt(shape: TTShape, cores: list[Tensor], bias: Tensor) -> nn.Module:
    with warnings.catch_warnings():
        # Importing it warns that its solvers lack a C++ extension, which its linear layer does not use.
        warnings.simplefilter("ignore")
        from torchtt.nn import LinearLayerTT

    linear = LinearLayerTT(list(shape.in_modes), list(shape.out_modes), list(shape.bonds))
    with torch.no_grad():
        for own, core in zip(linear.cores, cores, strict=True):
            own.copy_(core.transpose(1, 2))
        linear.bias.copy_(bias.view(shape.out_modes))
    # Its input and output have one axis per mode.
    return nn.Sequential(nn.Unflatten(1, shape.in_modes), linear, nn.Flatten(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contender:
    build: Callable[[Problem], nn.Module]
    packages: tuple[str, ...] = ()
    """Modules that it imports, beside torch."""
    cells: tuple[str, ...] = ("lstm", "gru")
    precisions: tuple[str, ...] = ("float32", "bfloat16")


_CONTENDERS = {
    OURS: _Contender(build=_Ours),
    DENSE: _Contender(build=_Dense),
    NATIVE: _Contender(build=lambda problem: _Dense(problem, onednn=False), cells=("lstm",), precisions=("float32",)),
    "tednet TTLSTM": _Contender(build=_TednetLSTM, packages=("tednet",), cells=("lstm",), precisions=("float32",)),
    "tednet TTLinear": _Contender(
        build=lambda problem: _Hoisted(problem, _tednet, block=8), packages=("tednet",), precisions=("float32",)
    ),
    "torchTT": _Contender(
        build=lambda problem: _Hoisted(problem, _torchtt, block=8), packages=("torchtt",), precisions=("float32",)
    ),
    "tensorly-torch": _Contender(
        build=lambda problem: _Hoisted(problem, _tensorly, block=problem.num_frames), packages=("tltorch",)
    ),
    "tensorly-torch + opt_einsum": _Contender(
        build=lambda problem: _Hoisted(problem, _tensorly, block=problem.num_frames, opt_einsum=True),
        packages=("tltorch", "opt_einsum"),
    ),
}


def missing() -> list[str]:
    """Names of the contenders that are not installed."""
    return [
        name
        for name, contender in _CONTENDERS.items()
        if any(importlib.util.find_spec(package) is None for package in contender.packages)
    ]


def contenders(cell: str, precision: str) -> list[str]:
    """Names of the installed contenders, ttrnn first."""
    absent = missing()
    return [
        name
        for name, contender in _CONTENDERS.items()
        if cell in contender.cells and precision in contender.precisions and name not in absent
    ]


def build(name: str, problem: Problem, precision: str = "float32") -> nn.Module:
    """The contender, with the weights of `problem.layer()`: (B, T, D) uint8 -> last state (B, H)."""
    contender = _CONTENDERS[name].build(problem)
    if precision == "float32":
        return contender
    if name != OURS:
        return _Autocast(contender)
    contender.layer.compute_dtype = torch.bfloat16
    return contender


def check() -> None:
    """Checks that all contenders compute the same: number of input parameters, result, gradients of all parameters.

    Raises:
        RuntimeError: a contender differs; the message has its name and the difference.
    """
    for cell, precision in itertools.product(("lstm", "gru"), ("float32", "bfloat16")):
        problem = Problem(cell=cell, batch=2, time=3)
        frames, num_params = problem.frames(), problem.layer().input_params
        expected = build(DENSE, problem)(frames).detach()
        for name in contenders(cell, precision):
            described = f"{name}, {cell}, {precision}"
            contender = build(name, problem, precision)
            result = contender(frames)
            result.square().sum().backward()
            error = float((result.detach() - expected).abs().max())
            if error > _TOLERANCE[precision]:
                raise RuntimeError(f"{described}: differs from torch.nn's layer by {error:.2g}")
            if any(parameter.grad is None for parameter in contender.parameters()):
                raise RuntimeError(f"{described}: a parameter has no gradient")
            if name not in (DENSE, NATIVE) and precision == "float32" and contender.input_params != num_params:
                raise RuntimeError(f"{described}: {contender.input_params} input parameters, not {num_params}")

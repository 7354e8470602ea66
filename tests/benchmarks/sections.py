"""Define the sections of the benchmark. Each returns rows; `quick` reduces it to a few seconds.

Legend: B batch, T time, F frames, D frame size, H hidden size, G gates, N output size.
"""

import dataclasses
import logging
import math
import statistics
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import Tensor, nn

from tests.benchmarks import peers
from tests.benchmarks.measure import Row, interleaved, peak_bytes, row, training_step
from tests.benchmarks.peers import DENSE, NATIVE, OURS, PAPER, Problem
from ttrnn import TTLinear, TTShape
from ttrnn.contract import tt_product
from ttrnn.planner import Plan, groupings, keeps, plan
from ttrnn.scan import NUM_GATES, scan
from ttrnn.shapes import format_modes

__all__ = ["SECTIONS"]

log = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16")
# Float copies of this many bytes of frames stay in the cache: the lower bound is the faster of these block sizes.
_CACHE_BYTES = (2 << 20, 6 << 20)
# (input modes, hidden modes) of the same frame and the same hidden size.
_NUM_MODES = {
    2: ((240, 240), (16, 16)),
    3: ((36, 40, 40), (8, 8, 4)),
    4: ((8, 20, 20, 18), (4, 4, 4, 4)),
    5: ((8, 8, 9, 10, 10), (4, 4, 4, 2, 2)),
    6: ((4, 4, 4, 6, 10, 15), (4, 4, 2, 2, 2, 2)),
}


def step(rounds: int, quick: bool) -> Iterator[Row]:
    """A training step and a forward pass at the paper's UCF11 shape: LSTMs of all, GRUs of ttrnn and torch."""
    problem = Problem(batch=2, time=8) if quick else Problem()
    yield from _compare(problem, "UCF11", rounds, gru_of=(OURS, DENSE))


def other_steps(rounds: int, quick: bool) -> Iterator[Row]:
    """The same at the paper's other shapes."""
    for name, in_modes in PAPER.items():
        if name != "UCF11" and not quick:
            yield from _compare(Problem(in_modes=in_modes), name, rounds, gru_of=(OURS, DENSE))


def _compare(problem: Problem, shape: str, rounds: int, gru_of: tuple[str, ...]) -> Iterator[Row]:
    frames = problem.frames()
    steps: dict[tuple[str, str, str], Callable[[], object]] = {}
    forwards: dict[tuple[str, str, str], Callable[[], object]] = {}
    for cell in ("lstm", "gru"):
        in_cell = dataclasses.replace(problem, cell=cell)
        for name in peers.contenders(cell, "float32"):
            if cell == "gru" and name not in gru_of:
                continue
            for precision in PRECISIONS:
                if name in peers.contenders(cell, precision):
                    network = peers.build(name, in_cell, precision)
                    steps[cell, name, precision] = training_step(network, frames)
                    forwards[cell, name, precision] = _forward(network, frames)
    for section, work in (("step", steps), ("forward", forwards)):
        log.info("%s: %s", section, shape)
        times = interleaved(work, rounds)
        for (cell, name, precision), seconds in times.items():
            described = f"{cell.upper()} {shape} {problem.batch}x{problem.time}"
            yield _per_frame(section, name, described, precision, seconds, problem.num_frames)
            if name == OURS:
                continue
            for ours in PRECISIONS:
                ratios = _ratios(seconds, times[cell, OURS, ours])
                yield row(section, f"{name} {precision} / {OURS}", described, ours, ratios, "times")


def _forward(network: nn.Module, frames: Tensor) -> Callable[[], object]:
    return torch.no_grad()(lambda: network(frames))


def _per_frame(section: str, name: str, shape: str, precision: str, seconds: list[float], num_frames: int) -> Row:
    return row(section, name, shape, precision, [1e6 * value / num_frames for value in seconds], "us/frame")


def _ratios(slow: list[float], fast: list[float]) -> list[float]:
    """Ratios by round."""
    return [a / b for a, b in zip(slow, fast, strict=True)]


def product(rounds: int, quick: bool) -> Iterator[Row]:
    """The TT product alone, forward and backward, compared with the matrix products of its plan and with memory."""
    num_frames = 32 if quick else 256
    for name, in_modes in PAPER.items():
        if quick and name != "UCF11":
            continue
        log.info("product: %s", name)
        shape = Problem(in_modes=in_modes).layer().ih_l0.shape
        frames_FD = Problem(in_modes=in_modes, batch=1, time=num_frames).frames()[0]
        work: dict[tuple[str, str], Callable[[], object]] = {("frames read twice", "uint8"): _read_twice(frames_FD)}
        for precision in PRECISIONS:
            work["tt_product", precision] = _tt_product(shape, frames_FD, precision)
            for cache_bytes in _CACHE_BYTES:
                work[f"bare GEMMs {cache_bytes >> 20} MiB", precision] = _bare_gemms(
                    shape, num_frames, getattr(torch, precision), cache_bytes
                )
        times = interleaved(work, rounds)
        for precision in PRECISIONS:
            floors = [times.pop((f"bare GEMMs {size >> 20} MiB", precision)) for size in _CACHE_BYTES]
            times["bare GEMMs", precision] = min(floors, key=statistics.median)
        described = f"LSTM {name} 1x{num_frames}"
        for (what, precision), seconds in times.items():
            yield _per_frame("product", what, described, precision, seconds, num_frames)
        for precision in PRECISIONS:
            ratios = _ratios(times["tt_product", precision], times["bare GEMMs", precision])
            yield row("product", "tt_product / bare GEMMs", described, precision, ratios, "times")


def _tt_product(shape: TTShape, frames_FD: Tensor, precision: str) -> Callable[[], object]:
    cores = [core.detach().requires_grad_() for core in TTLinear(shape.in_modes, shape.out_modes, shape.ranks).cores]
    grad_FN = torch.randn(len(frames_FD), shape.out_features)

    def forward_backward() -> None:
        y = tt_product(frames_FD, cores, shape, dtype=getattr(torch, precision))
        torch.autograd.grad(y, cores, grad_FN)

    return forward_backward


def _read_twice(frames_FD: Tensor) -> Callable[[], object]:
    """The minimum of memory traffic: the forward and the backward pass read every byte."""
    words = frames_FD.view(torch.int64)
    return lambda: (words.sum(), words.sum())


def _bare_gemms(shape: TTShape, num_frames: int, dtype: torch.dtype, cache_bytes: int) -> Callable[[], object]:
    """Only the matrix products of the plan: operands in the cache, results written to allocated memory."""
    chosen = plan(shape, num_frames, itemsize=dtype.itemsize)
    most = max(1, cache_bytes // (shape.in_features * dtype.itemsize))
    # Equal blocks, so that each has its number of frames.
    block = num_frames // math.ceil(num_frames / most)
    gemms = []
    for number, group in enumerate(chosen.groups):
        n, m, rows = group.n * group.left_rank, group.right_rank * group.m, block * group.before * group.behind
        z, dz, g = (torch.randn(size, dtype=dtype) for size in ((rows, m), (n, rows), (n, m)))
        forward = (g, z.t(), torch.empty_like(dz))
        # The backward pass recomputes the values between the groups, unless the plan keeps them.
        is_last = number == len(chosen.groups) - 1
        gemms += [forward] if is_last or chosen.keep else [forward, forward]
        gemms.append((dz, z, torch.empty_like(g)))
        if number > 0:
            gemms.append((dz.t(), g, torch.empty_like(z)))

    def run() -> None:
        for _ in range(num_frames // block):
            for a, b, out in gemms:
                torch.mm(a, b, out=out)

    return run


def plans(rounds: int, quick: bool) -> Iterator[Row]:
    """The plan that the planner chose, compared with the fastest of all plausible plans."""
    shapes = {name: Problem(in_modes=in_modes).layer().ih_l0.shape for name, in_modes in PAPER.items()}
    shapes |= {
        "UCF11 rank 1": TTShape((8, 20, 20, 18), (16, 4, 4, 4), 1),
        "UCF11 rank 16": TTShape((8, 20, 20, 18), (16, 4, 4, 4), 16),
        "two modes": TTShape((240, 240), (64, 16), 4),
        "six modes": TTShape((4, 5, 4, 5, 12, 12), (16, 2, 2, 4, 2, 2), 4),
        "64x32 grey": TTShape((8, 8, 4, 8), (12, 4, 4, 4), 4),
        "upper layer": TTShape((4, 4, 4, 4), (16, 4, 4, 4), 4),
        "widening": TTShape((4, 4), (64, 64), 4),
    }
    for name, shape in list(shapes.items())[: 1 if quick else None]:
        log.info("plans: %s", name)
        for precision in PRECISIONS:
            num_rows = max(32, (16 if quick else 256) * 57_600 // max(shape.in_features, shape.out_features) // 4)
            frames = torch.randint(0, 256, (num_rows, shape.in_features), dtype=torch.uint8)
            itemsize = getattr(torch, precision).itemsize
            chosen = plan(shape, 1 << (num_rows - 1).bit_length(), itemsize=itemsize)
            work = {}
            for groups in groupings(shape):
                candidate = dataclasses.replace(chosen, groups=groups, keep=keeps(shape, groups, num_rows, itemsize, 1))
                if candidate.multiply_adds <= 8 * chosen.multiply_adds:
                    work[groups] = _by_plan(shape, frames, precision, candidate)
            times = interleaved(work, min(rounds, 5))
            best = min(times.values(), key=statistics.median)
            described = f"{name} 1x{num_rows}"
            yield _per_frame("plans", "chosen", described, precision, times[chosen.groups], num_rows)
            yield _per_frame("plans", f"fastest of {len(times)}", described, precision, best, num_rows)
            yield row("plans", "chosen / fastest", described, precision, _ratios(times[chosen.groups], best), "times")


def _by_plan(shape: TTShape, frames_FD: Tensor, precision: str, chosen: Plan) -> Callable[[], object]:
    work = _tt_product(shape, frames_FD, precision)

    def by_plan() -> None:
        with mock.patch("ttrnn.contract.plan", return_value=chosen):
            work()

    return by_plan


def recurrence(rounds: int, quick: bool) -> Iterator[Row]:
    """The scan for given gates, forward and backward, compared with nn.GRU and nn.LSTM, the latter also without oneDNN.

    torch's layers do not accept gates; they get an input of size 1, and the time of the product with it (forward and
    backward, measured in the same rounds) is subtracted. Their gradient of the inputs has one column, that of the scan
    all gates: both simplifications favour torch.
    """
    hidden_size = 256
    for batch in (1, 8) if quick else (1, 8, 16, 32):
        log.info("recurrence: batch %d", batch)
        for time in (16, 32) if quick else (16, 32, 128, 512):
            work: dict[tuple[str, str], Callable[[], object]] = {}
            for cell in ("gru", "lstm"):
                work[cell, "scan"] = _scan(cell, batch, time, hidden_size)
                work[cell, DENSE], work[cell, "product"] = _torch_recurrence(cell, batch, time, hidden_size)
            work["lstm", NATIVE] = peers.without_onednn()(work["lstm", DENSE])
            times = interleaved(work, rounds)
            for cell, name in (("gru", DENSE), ("lstm", DENSE), ("lstm", NATIVE)):
                theirs = [a - b for a, b in zip(times[cell, name], times[cell, "product"], strict=True)]
                shape = f"{cell.upper()} {hidden_size} {batch}x{time}"
                if name == DENSE:
                    yield _per_frame("recurrence", "scan", shape, "float32", times[cell, "scan"], batch * time)
                yield _per_frame("recurrence", name, shape, "float32", theirs, batch * time)
                yield row(
                    "recurrence", f"{name} / scan", shape, "float32", _ratios(theirs, times[cell, "scan"]), "times"
                )


def _scan(cell: str, batch: int, time: int, hidden_size: int) -> Callable[[], object]:
    num_gates = NUM_GATES[cell] * hidden_size
    gates_FG = torch.randn(time * batch, num_gates, requires_grad=True)
    weight_hh = (torch.randn(num_gates, hidden_size) / math.sqrt(hidden_size)).requires_grad_()
    bias_hn = torch.zeros(hidden_size, requires_grad=True) if cell == "gru" else None
    state = (torch.zeros(batch, hidden_size),) * (2 if cell == "lstm" else 1)
    grad_FH = torch.randn(time * batch, hidden_size)
    inputs = [gates_FG, weight_hh] + ([] if bias_hn is None else [bias_hn])

    def forward_backward() -> None:
        output, _ = scan(cell, gates_FG, weight_hh, state, [batch] * time, bias_hn=bias_hn)
        torch.autograd.grad(output, inputs, grad_FH)

    return forward_backward


def _torch_recurrence(
    cell: str, batch: int, time: int, hidden_size: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """The layer of torch with an input of size 1, and the product with that input alone."""
    layer = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](1, hidden_size)
    x = torch.randn(time, batch, 1)
    grad_TBH = torch.randn(time, batch, hidden_size)
    weights = list(layer.parameters())
    grad_TBG = torch.randn(time, batch, len(layer.weight_ih_l0))

    def forward_backward() -> None:
        torch.autograd.grad(layer(x)[0], weights, grad_TBH)

    def product_only() -> None:
        y = nn.functional.linear(x, layer.weight_ih_l0, layer.bias_ih_l0)
        torch.autograd.grad(y, [layer.weight_ih_l0, layer.bias_ih_l0], grad_TBG)

    return forward_backward, product_only


def growth(rounds: int, quick: bool) -> Iterator[Row]:
    """A training step of the TT-LSTM at the UCF11 shape, as a function of one parameter at a time."""
    base = Problem(batch=1, time=4) if quick else Problem()
    for ranks in (1, 4) if quick else (1, 2, 4, 8, 16):
        yield from _growth(dataclasses.replace(base, ranks=ranks), f"ranks {ranks}", rounds)
    for num_modes in (2, 6) if quick else _NUM_MODES:
        in_modes, hidden_modes = _NUM_MODES[num_modes]
        problem = dataclasses.replace(base, in_modes=in_modes, hidden_modes=hidden_modes)
        yield from _growth(problem, f"modes {num_modes}", rounds)
    for batch in (1, 2) if quick else (1, 2, 8, 32):
        yield from _growth(dataclasses.replace(base, batch=batch), f"batch {batch}", rounds)
    for time in (4, 8) if quick else (8, 32, 128):
        yield from _growth(dataclasses.replace(base, time=time), f"time {time}", rounds)


def _growth(problem: Problem, what: str, rounds: int) -> Iterator[Row]:
    log.info("growth: %s", what)
    frames = problem.frames()
    work = {}
    for precision in PRECISIONS:
        for name in (OURS, NATIVE, "tednet TTLSTM", "tensorly-torch + opt_einsum"):
            # One curve for each of the other libraries, in the precision that all of them support.
            if name in peers.contenders("lstm", precision) and (name == OURS or precision == "float32"):
                work[name, precision] = training_step(peers.build(name, problem, precision), frames)
    shape = f"{what}: {format_modes(problem.in_modes)} {problem.batch}x{problem.time}"
    for (name, precision), seconds in interleaved(work, min(rounds, 3)).items():
        yield _per_frame("growth", name, shape, precision, seconds, problem.num_frames)


def memory(rounds: int, quick: bool) -> Iterator[Row]:
    """Peak memory of a training step, each contender in a separate process, and of a batch of long clips.

    At 16 x 1,492 frames only ttrnn is run. For other libraries, the bytes per frame are computed from two smaller
    batches: rows named "extrapolated".
    """
    problem = Problem(batch=2, time=8) if quick else Problem()
    long = Problem(cell="gru", batch=16, time=32 if quick else 1492)
    for precision in PRECISIONS:
        for name in peers.contenders("lstm", precision)[: 2 if quick else None]:
            yield from _peak(name, problem, precision)
        yield from _peak(OURS, long, precision)
    for name in peers.contenders("gru", "float32")[1 : 2 if quick else None]:
        yield from _extrapolated(name, dataclasses.replace(problem, cell="gru"), long)


def _peak(name: str, problem: Problem, precision: str) -> Iterator[Row]:
    log.info("memory: %s", name)
    peak = peak_bytes(name, problem, precision)
    if peak is None:
        log.info("%s, %s: a step of %d frames did not end", name, precision, problem.num_frames)
    else:
        yield from _bytes(name, problem, precision, peak)


def _extrapolated(name: str, problem: Problem, long: Problem) -> Iterator[Row]:
    """Extrapolates from the peaks of half the batch and the whole batch."""
    log.info("memory: %s, extrapolated", name)
    half = dataclasses.replace(problem, batch=problem.batch // 2)
    small, large = (peak_bytes(name, part, "float32") for part in (half, problem))
    if small is not None and large is not None:
        per_frame = (large - small) / (problem.num_frames - half.num_frames)
        peak = large + per_frame * (long.num_frames - problem.num_frames)
        yield from _bytes(f"{name}, extrapolated", long, "float32", peak)


def _bytes(name: str, problem: Problem, precision: str, peak: float) -> Iterator[Row]:
    shape = f"{problem.cell.upper()} UCF11 {problem.batch}x{problem.time}"
    yield row("memory", name, shape, precision, [float(peak)], "bytes")
    frames_bytes = problem.num_frames * math.prod(problem.in_modes)
    yield row("memory", f"{name} / frames", shape, precision, [peak / frames_bytes], "times")


SECTIONS: dict[str, Callable[[int, bool], Iterator[Row]]] = {
    "step": step,
    "other_steps": other_steps,
    "product": product,
    "plans": plans,
    "recurrence": recurrence,
    "growth": growth,
    "memory": memory,
}

"""Which cores of a tensor train to merge before rows are multiplied with it, in pure integers.

Legend: M / N input / output size, M_k / N_k input / output mode k, R / S left / right rank of a group of cores.

The paper contracts core by core, last core first (eq. 4): the least arithmetic, but thin matrix products and many
passes over memory. Here neighbouring cores are first merged into groups, and a row goes through one matrix product per
group, last group first. One group is the dense matrix itself, as many groups as cores the chain of the paper; two or
three are usually fastest for frames of video. product.py describes and runs the product of a group.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ttrnn.shapes import TTShape, format_modes

__all__ = ["FULL_COLUMNS", "Group", "Plan", "block_rows", "groupings", "keeps", "least_multiply_adds", "plan"]

# The gradient of G is computed faster where a side of it is a multiple of this.
FULL_COLUMNS = 16

# Bytes of converted rows in a block: few enough to stay in a processor's cache; enough for few launches on a GPU.
_BLOCK_BYTES = {"cpu": 3 << 20, "cuda": 256 << 20}

# The values between the groups may always take this much.
_KEPT_BYTES = 64 << 20

# The cost model, in ns of one core, between what a Xeon with AMX and an EPYC with AVX-512 take. By size of a number: a
# multiply-add, and a number that a product reads or writes. Then a number that the backward pass reads or writes in a
# full-precision product where neither side of G is a multiple of FULL_COLUMNS; a byte that is kept, in fresh memory; a
# run or a piece of numbers that is moved; all that a group does with a block, forward and backward; merging one more
# core, and each number of what that makes.
_MULTIPLY_ADD_NS, _VALUE_NS = {2: 0.005, 4: 0.018, 8: 0.04}, {2: 0.06, 4: 0.12, 8: 0.24}
_ODD_VALUE_NS, _KEPT_BYTE_NS = 0.3, 0.25
_RUN_NS, _PIECE_NS, _GROUP_NS, _MERGE_NS, _MERGE_VALUE_NS = 6.3, 0.7, 45_000, 45_000, 6.0


@dataclass(frozen=True, slots=True)
class Group:
    """Cores merged into one matrix G (n R, m S); the sizes are those of the legend above."""

    cores: range
    """The cores that are merged."""
    modes: str
    """Their input and output modes, as text."""
    m: int
    """Product of their input modes."""
    n: int
    """Product of their output modes."""
    left_rank: int
    """R."""
    right_rank: int
    """S."""
    before: int
    """L, the product of the input modes before the group."""
    behind: int
    """C, the product of the output modes behind it."""

    @property
    def is_last(self) -> bool:
        """Whether no group follows."""
        return self.cores.start == 0

    @property
    def is_plain(self) -> bool:
        """Whether rows come out as rows, with nothing to permute."""
        return self.is_last and self.behind == 1

    def piece_bytes(self, itemsize: int) -> int:
        """Bytes that a transposition moves as one: the largest piece of up to 16 that divides R numbers."""
        return math.gcd(self.left_rank * itemsize, 16)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds per row."""
        return self.n * self.left_rank * self.right_rank * self.m * self.behind * self.before

    @property
    def in_values(self) -> int:
        """Numbers per row that go in."""
        return self.right_rank * self.m * self.behind * self.before

    @property
    def out_values(self) -> int:
        """Numbers per row that come out."""
        return self.n * self.left_rank * self.behind * self.before


@dataclass(frozen=True, slots=True)
class Plan:
    """How a product is done."""

    groups: tuple[Group, ...]
    """In the order in which rows pass them: last cores first."""
    keep: bool
    """Keep the values between the groups for the backward pass, instead of computing them again."""
    cost: int
    """Of all rows, forward and backward, by the cost model: ns of one core."""

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds per row, forward."""
        return sum(group.multiply_adds for group in self.groups)

    def __str__(self) -> str:
        groups = " ".join(f"({group.modes})" for group in reversed(self.groups))
        between = "" if self.keep or len(self.groups) == 1 else ", computed again in the backward pass"
        return f"{groups}, {self.multiply_adds:,} MACs a row{between}"


@functools.lru_cache(maxsize=4096)
def plan(
    shape: TTShape, num_rows: int, *, itemsize: int = 4, row_itemsize: int = 1, input_gradient: bool = False
) -> Plan:
    """The cheapest way to take `num_rows` rows through the cores, forward and backward, by the cost model.

    The model is that of a processor, and takes a backward pass for granted: a layer then multiplies alike in training,
    in evaluation and on a GPU.

    Args:
        shape: Modes and ranks.
        num_rows: F.
        itemsize: Bytes of a number in the matrix products.
        row_itemsize: Bytes of a number in the rows as they are stored.
        input_gradient: Whether the gradient with respect to the rows is wanted too.
    """
    plans = []
    for groups in groupings(shape):
        keep = keeps(shape, groups, num_rows, itemsize, row_itemsize)
        plans.append(Plan(groups, keep, _cost(shape, groups, keep, num_rows, itemsize, input_gradient)))
    return min(plans, key=lambda candidate: candidate.cost)


def keeps(shape: TTShape, groups: Sequence[Group], num_rows: int, itemsize: int, row_itemsize: int) -> bool:
    """Whether to keep the values between the groups for the backward pass: where they take no more memory than the rows
    themselves, or little in all. Computing them again costs about a fifth of a training step."""
    between_bytes = sum(group.out_values for group in groups[:-1]) * itemsize
    return between_bytes <= shape.in_features * row_itemsize or between_bytes * num_rows <= _KEPT_BYTES


def groupings(shape: TTShape) -> Iterator[tuple[Group, ...]]:
    """Ways to merge neighbouring cores: into up to four groups, or not at all. Each from last group to first."""
    for num_cuts in sorted({*range(min(4, shape.num_cores)), shape.num_cores - 1}):
        for cuts in itertools.combinations(range(1, shape.num_cores), num_cuts):
            bonds = (0, *cuts, shape.num_cores)
            yield tuple(_group(shape, *cores) for cores in zip(bonds[-2::-1], bonds[:0:-1], strict=True))


def least_multiply_adds(shape: TTShape) -> int:
    """Multiply-adds per row of the grouping that has the fewest, which is seldom the fastest."""
    return min(sum(group.multiply_adds for group in groups) for groups in groupings(shape))


def _group(shape: TTShape, first: int, stop: int) -> Group:
    return Group(
        cores=range(first, stop),
        modes=f"{format_modes(shape.in_modes[first:stop])} -> {format_modes(shape.out_modes[first:stop])}",
        m=math.prod(shape.in_modes[first:stop]),
        n=math.prod(shape.out_modes[first:stop]),
        left_rank=shape.bonds[first],
        right_rank=shape.bonds[stop],
        before=math.prod(shape.in_modes[:first]),
        behind=math.prod(shape.out_modes[stop:]),
    )


def _cost(
    shape: TTShape, groups: Sequence[Group], keep: bool, num_rows: int, itemsize: int, input_gradient: bool
) -> int:
    """ns for all rows, forward and backward."""
    total, num_blocks = 0.0, -(-num_rows // block_rows(groups, itemsize))
    sizes = [m * n for m, n in zip(shape.in_modes, shape.out_modes, strict=True)]
    for group in groups:
        # The rows themselves come in to the first group of all, the result leaves the last.
        is_first, is_last = group is groups[0], group is groups[-1]
        again = not keep and not is_last
        # The gradient of G, and that of what came in, save for the rows; forward once, once more what was not kept.
        num_backward = 1 + (not is_first or input_gradient)
        num_values = group.in_values + group.out_values
        product = group.multiply_adds * _MULTIPLY_ADD_NS[itemsize] + num_values * _VALUE_NS[itemsize]
        is_odd = group.right_rank * group.m % FULL_COLUMNS and group.n * group.left_rank % FULL_COLUMNS
        odd = num_values * _ODD_VALUE_NS if is_odd and itemsize > 2 else 0.0
        if is_last:
            moves = 0.0 if group.is_plain else group.out_values / group.behind * _RUN_NS
        else:
            moves = group.out_values * itemsize / group.piece_bytes(itemsize) * _PIECE_NS
        kept = group.out_values * itemsize * _KEPT_BYTE_NS if keep and not is_last else 0.0
        each_row = (1 + again + num_backward) * product + num_backward * odd + (2 + again) * moves + kept
        total += num_rows * each_row + num_blocks * _GROUP_NS
        for core in group.cores[1:]:
            num_merged = group.left_rank * math.prod(sizes[group.cores.start : core + 1]) * shape.bonds[core + 1]
            total += _MERGE_NS + _MERGE_VALUE_NS * num_merged
    return round(total)


def block_rows(groups: Sequence[Group], itemsize: int, device_type: str = "cpu") -> int:
    """Rows that are converted and multiplied at once.

    The values that enter and leave the widest group stay in cache, but a larger matrix is not read for few rows.
    """
    widest, largest = _widest(tuple(groups))
    block_bytes = _BLOCK_BYTES.get(device_type, _BLOCK_BYTES["cuda"])
    return max(1, max(block_bytes, 2 * largest * itemsize) // (widest * itemsize))


@functools.lru_cache(maxsize=4096)
def _widest(groups: tuple[Group, ...]) -> tuple[int, int]:
    """The most numbers of a row that go in or out of a group, and the numbers of the largest matrix."""
    widest = max(max(group.in_values, group.out_values) for group in groups)
    return widest, max(group.n * group.left_rank * group.right_rank * group.m for group in groups)

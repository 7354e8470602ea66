"""The rows of a product as they lie in memory, and their conversion block by block.

Legend: F rows (frames), M values of a row, K rows of the tail.

A block of uint8 frames is converted, multiplied and dropped while it is in cache, so no float copy of all frames ever
exists. Behind the last row comes a tail: rows in the dtype of the products, by which the mean is subtracted.
"""

import bisect
import itertools
import math
import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["Rows", "scratch", "unit"]

# For each number of rows that it has not met, oneDNN compiles kernels of half precision: some MB and ms each. Its tiles
# have 16 rows, so that rows of zeros up to a multiple of them cost little.
_HALF_ROWS = 16

# Scratch memory of more bytes is given back at once.
_MOST_SCRATCH_BYTES = 16 << 20


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}


_scratch = _Scratch()


def scratch(name: str, sizes: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory without contents, valid until the same thread asks for the same name again.

    On a processor each thread keeps it: touching fresh memory for the first time takes longer than the small products.
    """
    num_bytes = math.prod(sizes) * dtype.itemsize
    if device.type != "cpu" or num_bytes > _MOST_SCRATCH_BYTES:
        return torch.empty(sizes, dtype=dtype, device=device)
    memory = _scratch.by_name.get(name)
    if memory is None or len(memory) < num_bytes:
        # Of use outside of inference mode too.
        with torch.inference_mode(False):
            memory = _scratch.by_name[name] = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    return memory[:num_bytes].view(dtype).view(sizes)


def unit(stored: torch.dtype, dtype: torch.dtype) -> float:
    """The factor between values of rows as they are stored and those of blocks."""
    return 1 / 128 if stored == torch.uint8 and dtype == torch.float16 else 1.0


class Rows:
    """The rows of several tensors one after the other, or those of one in the order given, and then the tail.

    In half precision pixels are taken as x - 128, which is exact: smaller numbers leave smaller rounding errors in what
    is made of them. In float16, whose range is short, (x - 128) / 128.
    """

    def __init__(self, parts: Sequence[Tensor], order: Tensor | None, dtype: torch.dtype) -> None:
        self.parts, self.order, self.dtype = parts, order, dtype
        self.shifted = parts[0].dtype == torch.uint8 and dtype.itemsize == 2
        self.unit = unit(parts[0].dtype, dtype)
        self.starts = [0, *itertools.accumulate(map(len, parts))]
        self.num_rows = self.starts[-1] if order is None else len(order)
        """F."""
        self.tail: Tensor | None = None
        """(K, M)."""

    def subtract(self, mean: Tensor | None) -> None:
        """Makes the tail whose products, added to those of the rows, make them products of the rows minus (M,) mean."""
        if not self.num_rows or (mean is None and not self.shifted):
            return
        mean = self.parts[0].new_zeros(self.parts[0].shape[1], dtype=torch.float32) if mean is None else mean
        exact = ((128 - mean) * self.unit if self.shifted else -mean).unsqueeze(0)
        self.tail = exact.to(self.dtype)
        if self.dtype.itemsize == 2:
            # In half precision two numbers: the rounded one and what the rounding left.
            self.tail = torch.cat([self.tail, (exact - self.tail.to(exact.dtype)).to(self.dtype)])

    @property
    def num_tail(self) -> int:
        """K."""
        return 0 if self.tail is None else len(self.tail)

    def __len__(self) -> int:
        """F + K."""
        return self.num_rows + self.num_tail

    def block(self, most: int) -> int:
        """Rows of a block, where it should have about `most` at most: all blocks are about as large."""
        most = self._full(most)
        num_blocks = max(1, -(-len(self) // most))
        return min(self._full(-(-len(self) // num_blocks)), most)

    def num_padded(self, block: int) -> int:
        """Rows of all blocks; more than there are where the last block ends with zeros."""
        whole = len(self) // block * block if block else 0
        return whole + min(self._full(len(self) - whole), block)

    def _full(self, num_rows: int) -> int:
        multiple = _HALF_ROWS if self.dtype.itemsize == 2 else 1
        return -(-num_rows // multiple) * multiple

    def blocks(self, block: int) -> Iterator[tuple[slice, Tensor]]:
        """Converted rows, block by block; each is valid until the next one is asked for."""
        num_padded, first = self.num_padded(block), self.parts[0]
        as_they_are = (
            len(self.parts) == 1 and self.order is None and first.dtype == self.dtype and first.is_contiguous()
        )
        buffer = stored = None
        for start in range(0, num_padded, max(block, 1)):
            rows = slice(start, min(start + block, num_padded))
            if as_they_are and rows.stop <= self.num_rows:
                yield rows, first[rows]
                continue
            if buffer is None:
                buffer = scratch("rows", (block, first.shape[1]), self.dtype, first.device)
                if self.shifted or (self.order is not None and first.dtype != self.dtype):
                    stored = scratch("stored rows", (block, first.shape[1]), first.dtype, first.device)
            self._fill(rows, buffer, stored)
            yield rows, buffer[: rows.stop - start]

    def _fill(self, rows: slice, buffer: Tensor, stored: Tensor | None) -> None:
        """Converts some rows to the front of a buffer, by way of memory for them as they are stored, where needed."""
        target = buffer if stored is None else stored
        for part, source, here in self.pieces(rows):
            if isinstance(source, Tensor):
                torch.index_select(self.parts[part], 0, source, out=target[here])
            elif self.shifted:
                torch.bitwise_xor(self.parts[part][source], 128, out=target[here])
            else:
                target[here].copy_(self.parts[part][source])
        num_rows = max(0, min(rows.stop, self.num_rows) - rows.start)
        if stored is not None:
            stored = stored[:num_rows]
            if self.shifted:
                # As a signed number, x with its highest bit flipped is x - 128.
                stored = (stored if self.order is None else stored.bitwise_xor_(128)).view(torch.int8)
            buffer[:num_rows].copy_(stored)
            if self.unit != 1:
                buffer[:num_rows].mul_(self.unit)
        at = rows.start + num_rows
        if self.tail is not None and at < rows.stop:
            tail = self.tail[at - self.num_rows : rows.stop - self.num_rows]
            buffer[num_rows : num_rows + len(tail)] = tail
            num_rows += len(tail)
        buffer[num_rows : rows.stop - rows.start].zero_()

    def pieces(self, rows: slice) -> Iterator[tuple[int, slice | Tensor, slice]]:
        """For the rows of a block: the part that some lie in, where in the part, and where in the block."""
        stop = min(rows.stop, self.num_rows)
        if self.order is not None:
            taken = self.order[rows.start : stop]
            yield 0, taken, slice(len(taken))
            return
        at, part = rows.start, bisect.bisect_right(self.starts, rows.start) - 1
        while at < stop:
            first, end = self.starts[part], min(stop, self.starts[part + 1])
            yield part, slice(at - first, end - first), slice(at - rows.start, end - rows.start)
            at, part = end, part + 1

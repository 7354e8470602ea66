"""Make the cores of a tensor train from a network of tensors, differentiably.

Legend: M_k / N_k input / output mode k, d number of modes, R ranks of the cores.

The tensors lie at the d sites of a train, the one with the axes M_k and N_k at site k. Core k is the product of the
tensors at site k; its ranks are the indices that lead to other sites, and an index that passes a site adds an identity.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ttrnn.init import orthogonal_
from ttrnn.plain import without_autocast
from ttrnn.shapes import TTShape, format_modes

__all__ = ["Format", "Site"]

_LETTERS = "abcdefghijklopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Site(NamedTuple):
    """One core as an einsum over some of the parameters and identities: terms -> left inputs outputs right."""

    parameters: tuple[int, ...]
    identities: tuple[int, ...]
    terms: str
    left: str = ""
    right: str = ""
    inputs: str = "m"
    outputs: str = "n"


@dataclass(frozen=True, slots=True)
class Format:
    """The base: a subclass lists its tensors and reads its ranks."""

    name: ClassVar[str]
    stored: ClassVar[str] = "factors"
    """The name of the parameters in the state dict of a layer."""
    num_ranks: ClassVar[tuple[int, int]] = (1, 0)
    """(a, b): there are a * d + b ranks."""

    in_modes: tuple[int, ...]
    """M_1..M_d."""
    out_modes: tuple[int, ...]
    """N_1..N_d."""
    ranks: tuple[int, ...]
    """Written out; one number for all is allowed in `make_format`."""

    @classmethod
    def settled(cls, sizes: Sequence[int], ranks: Sequence[int]) -> tuple[int, ...]:
        """The ranks written out, and clipped to what the modes allow; `sizes` are the M_k N_k."""
        num_ranks = cls.num_ranks[0] * len(sizes) + cls.num_ranks[1]
        if len(ranks) not in (1, num_ranks):
            more = "" if num_ranks == 1 else f", or {num_ranks} with {len(sizes)} modes"
            raise ValueError(f"format {cls.name} takes one rank{more}; got {format_modes(ranks) or 'none'}")
        return tuple(ranks) * num_ranks if len(ranks) == 1 else tuple(ranks)

    def tensors(self) -> list[tuple[int, tuple[Any, ...]]]:
        """Of each parameter, the site and the index of each axis: "m", "n" or a key of `sizes`."""
        raise NotImplementedError

    def sizes(self) -> dict[Any, int]:
        """The size of each index between tensors."""
        return dict(enumerate(self.ranks))

    @property
    def parameter_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each parameter."""
        sizes = [{"m": m, "n": n, **self.sizes()} for m, n in zip(self.in_modes, self.out_modes, strict=True)]
        return tuple(tuple(sizes[k][index] for index in indices) for k, indices in self.tensors())

    @property
    def num_params(self) -> int:
        """Numbers in all parameters."""
        return sum(map(math.prod, self.parameter_shapes))

    @property
    def shape(self) -> TTShape:
        """Modes and ranks of the cores. The ranks are those of the network: the modes may allow less."""
        sizes, bonds = self.sizes(), _bonds(self)[1:-1]
        ranks = (math.prod(sizes[index] for index in bond) for bond in bonds)
        return TTShape.unclipped(self.in_modes, self.out_modes, ranks)

    def sites(self) -> tuple[Site, ...]:
        """The einsum of each core."""
        return _sites(self)

    def cores(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """The cores Gk of shape (R_{k-1}, M_k, N_k, R_k), differentiable with respect to the parameters."""
        like, cores = parameters[0], []
        with without_autocast(like.device.type):
            for site, shape in zip(self.sites(), self.shape.core_shapes, strict=True):
                parts = [parameters[number] for number in site.parameters]
                parts += [torch.eye(size, dtype=like.dtype, device=like.device) for size in site.identities]
                equation = f"{site.terms}->{site.left}{site.inputs}{site.outputs}{site.right}"
                cores.append(torch.einsum(equation, *parts).reshape(shape))
        return cores

    def reset_(self, parameters: Sequence[Tensor], gain: float = 1.0) -> None:
        """Fills the parameters; the squared norm of each row of W is gain^2 in expectation over the draw.

        An entry of W is a sum of T products of one entry of each of p parameters, T the product of all inner sizes.
        Entries of a parameter are uncorrelated, with a mean of 0 and one variance v for all parameters, and parameters
        are independent: the variance of W is T v^p. For each output index, a factor has orthogonal rows or columns.
        """
        num_terms = math.prod((*self.in_modes, *self.sizes().values()))
        root_mean_square = (gain / math.sqrt(num_terms)) ** (1 / len(parameters))
        for parameter, (_, indices) in zip(parameters, self.tensors(), strict=True):
            parts = parameter.movedim(indices.index("n"), 0) if "n" in indices else parameter.unsqueeze(0)
            orthogonal_(parts, root_mean_square)

    def __str__(self) -> str:
        return f"{self.name} of ranks {format_modes(self.ranks)}, as cores {self.shape}"


@functools.lru_cache(maxsize=4096)
def _bonds(network: Format) -> list[list[Any]]:
    """The indices that lead from the sites before each bond to those behind it; none at either end."""
    sites: dict[Any, list[int]] = {index: [] for index in network.sizes()}
    for site, indices in network.tensors():
        for index in set(indices) - {"m", "n"}:
            sites[index].append(site)
    bonds = range(-1, len(network.in_modes))
    return [[index for index, found in sites.items() if min(found) <= bond < max(found)] for bond in bonds]


@functools.lru_cache(maxsize=4096)
def _sites(network: Format) -> tuple[Site, ...]:
    sites, sizes = [], network.sizes()
    for k, (left, right) in enumerate(itertools.pairwise(_bonds(network))):
        own = {number: indices for number, (site, indices) in enumerate(network.tensors()) if site == k}
        passing, fresh = [index for index in right if index in left], iter(_LETTERS)
        present = dict.fromkeys(itertools.chain(left, right, *own.values()))
        letters = {index: index if index in ("m", "n") else next(fresh) for index in present}
        # An index on both sides needs two letters; an identity makes them equal.
        behind = letters | {index: next(fresh) for index in passing}
        terms = ["".join(letters[index] for index in indices) for indices in own.values()]
        terms += [letters[index] + behind[index] for index in passing]
        ends = ("".join(names[index] for index in bond) for names, bond in ((letters, left), (behind, right)))
        sites.append(Site(tuple(own), tuple(sizes[index] for index in passing), ",".join(terms), *ends))
    return tuple(sites)

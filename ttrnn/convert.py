"""Replace the large dense layers of any model by the nearest tensor-train layers."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import nn

from ttrnn.linear import TTLinear
from ttrnn.recurrent import TTGRU, TTLSTM, TTRNN
from ttrnn.shapes import Ranks

__all__ = ["tensorize"]

_COUNTERPARTS: dict[type[nn.Module], Any] = {nn.Linear: TTLinear, nn.RNN: TTRNN, nn.GRU: TTGRU, nn.LSTM: TTLSTM}
# Smaller layers have little to save.
_LEAST_WEIGHTS = 1 << 16


def tensorize(
    module: nn.Module,
    ranks: Ranks = 0.1,
    *,
    num_modes: int = 4,
    filter: Callable[[str, nn.Module], bool] | None = None,
) -> nn.Module:
    """Replaces nn.Linear, nn.RNN, nn.GRU and nn.LSTM within a model by the nearest tensor trains (TT-SVD).

    Subclasses of them stay, as do layers that share a parameter, LSTMs with projections, and layers that would get more
    parameters than they have. New parameters need a new optimizer.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4096, 1024), nn.ReLU(), nn.Linear(1024, 10))
        >>> tensorize(model, ranks=0.1)[0].num_params < 0.11 * 4096 * 1024
        True

    Args:
        module: Changed in place, unless it is itself such a layer.
        ranks: Of every tensor train: one number, or the share of the dense parameters that it may have.
        num_modes: Modes of every tensor train; they are as even as the sizes allow.
        filter: Which layers to replace, by name and layer; None for those whose largest matrix has 65,536 weights.

    Returns:
        The module, or its replacement.

    Raises:
        ValueError: see TTLinear.from_dense and TTGRU.from_dense.
    """
    chosen = filter or (lambda _, layer: max(map(nn.Parameter.numel, layer.parameters())) >= _LEAST_WEIGHTS)
    uses = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
    for name, layer in list(module.named_modules()):
        if type(layer) not in _COUNTERPARTS or not chosen(name, layer):
            continue
        parameters = list(layer.parameters())
        if any(uses[id(parameter)] > 1 for parameter in parameters) or getattr(layer, "proj_size", False):
            continue
        small = _COUNTERPARTS[type(layer)].from_dense(layer, ranks=ranks, num_modes=num_modes).train(layer.training)
        if small.num_params >= sum(parameter.numel() for parameter in parameters):
            continue
        if not name:
            return small
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, small)
    return module

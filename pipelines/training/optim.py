"""Make the optimizer, the learning-rate schedule and the EMA of the weights."""

from typing import Any

import torch
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel

from pipelines.baselines.network import AnyClassifier
from pipelines.training.options import TrainOptions

__all__ = ["make_ema", "make_optimizer", "make_schedule"]


def make_optimizer(options: TrainOptions, model: AnyClassifier) -> torch.optim.Optimizer:
    """AdamW, or Adam with an L2 penalty that is added to the gradient (after clipping)."""
    parameters: list[Any] = list(model.parameters())
    if options.decayed == "head":
        head = list(model.head.parameters())
        others = [parameter for parameter in parameters if all(parameter is not own for own in head)]
        parameters = [{"params": others, "weight_decay": 0.0}, {"params": head}]
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    # One kernel for all weights: small models would spend a tenth of a step in calls.
    return kind(parameters, lr=options.lr, weight_decay=options.weight_decay, fused=True)


def make_schedule(options: TrainOptions, optimizer: torch.optim.Optimizer, num_steps: int) -> LRScheduler:
    """The learning-rate schedule of a training of `num_steps` steps; it is stepped after each of them."""
    if options.schedule == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    return OneCycleLR(optimizer, options.lr, num_steps)


def make_ema(options: TrainOptions, model: AnyClassifier) -> AveragedModel | None:
    """The exponential moving average of the weights over steps; None with weight_averaging 0."""
    return _Ema(model, options.weight_averaging) if options.weight_averaging else None


class _Ema(AveragedModel):
    """Averages all weights in one call: for small models torch's own way takes longer than the optimizer.

    At step n the decay is at most (1 + n) / (10 + n), so that the initial weights do not dominate early on.
    """

    def __init__(self, model: AnyClassifier, decay: float) -> None:
        super().__init__(model)
        self._decay, self._averages = decay, tuple(self.module.parameters())

    @torch.no_grad()
    def update_parameters(self, model: torch.nn.Module) -> None:
        """Takes over the weights at the first step, and lets the average move towards them at the others."""
        num_averaged = int(self.n_averaged)
        decay = min(self._decay, (1 + num_averaged) / (10 + num_averaged)) if num_averaged else 0.0
        torch._foreach_lerp_(self._averages, tuple(model.parameters()), 1 - decay)
        self.n_averaged += 1

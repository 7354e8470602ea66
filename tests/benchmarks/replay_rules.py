"""Orders of configurations and rules of early stopping, for tests.benchmarks.replay."""

import functools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from pipelines.tuning.frontier import IDEAL, WORST
from pipelines.tuning.optuna_study import SAMPLERS, make_sampler
from pipelines.tuning.stopping import Curve, EarlyStopping

__all__ = ["ORDERS", "STOPPING", "Configuration", "MoAsha", "Order", "Sampled", "StoppingRule", "ranking"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """A configuration of a finite search space, with one finished training of it."""

    num_params: int
    """parameters of the whole model"""
    curve: Sequence[float]
    """validation metric of each epoch, 0 to 1"""
    val_metric: float
    """validation metric of the model that was kept"""
    epoch_s: float
    """duration of an epoch, s"""
    coordinates: Mapping[str, str | int | float]
    """what a sampler chooses: text for a choice, numbers on a logarithmic scale except for dropout"""


class Order(Protocol):
    """The order in which the configurations of a space are trained."""

    def next(self) -> int | None:
        """The index of the configuration to train next; None if all were trained."""
        ...

    def ended(self, index: int, is_stopped: bool) -> None:
        """Takes the result of a configuration, or that it was stopped early."""
        ...


class _Random:
    def __init__(self, space: Sequence[Configuration], seed: int) -> None:
        self._left = list(range(len(space)))
        random.Random(seed).shuffle(self._left)

    def next(self) -> int | None:
        return self._left.pop() if self._left else None

    def ended(self, index: int, is_stopped: bool) -> None:
        """Does not depend on results."""


class Sampled:
    """Takes the configuration that is nearest to what a sampler of Optuna asks for, of those not yet trained.

    The sampler gets the coordinates of that configuration, not those that it asked for.

    Args:
        space: The configurations.
        seed: Seed of the sampler.
        sampler: One of optuna_study.SAMPLERS.
    """

    def __init__(self, space: Sequence[Configuration], seed: int, sampler: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._seed, self._sampler = space, seed, sampler
        self._study = optuna.create_study(directions=["maximize", "minimize"])
        self._distributions = _distributions([configuration.coordinates for configuration in space])
        self._left = dict.fromkeys(range(len(space)))
        self._trials: dict[int, optuna.Trial] = {}
        self._num_trained = 0

    def next(self) -> int | None:
        if not self._left:
            return None
        study = self._study
        study.sampler = make_sampler(
            self._sampler, seed=self._seed, number=len(study.get_trials(deepcopy=False)), num_trained=self._num_trained
        )
        wanted = study.ask(self._distributions)
        # Samplers ignore failed trials.
        study.tell(wanted, state=TrialState.FAIL)
        index = min(self._left, key=lambda index: self._distance(wanted.params, self._space[index].coordinates))
        del self._left[index]
        study.enqueue_trial({name: self._space[index].coordinates[name] for name in self._distributions})
        self._trials[index] = study.ask(self._distributions)
        return index

    def ended(self, index: int, is_stopped: bool) -> None:
        trial, self._num_trained = self._trials[index], self._num_trained + 1
        if is_stopped:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            configuration = self._space[index]
            self._study.tell(trial, [configuration.val_metric, float(configuration.num_params)])

    def _distance(self, one: Mapping[str, object], two: Mapping[str, object]) -> float:
        return sum(_difference(self._distributions[name], one[name], two[name]) for name in self._distributions)


def _distributions(coordinates: Sequence[Mapping[str, str | int | float]]) -> dict[str, BaseDistribution]:
    """The distribution of each coordinate that has several values."""
    found: dict[str, BaseDistribution] = {}
    for name in coordinates[0]:
        values = sorted({each[name] for each in coordinates})
        low, high = values[0], values[-1]
        if len(values) == 1:
            continue
        if isinstance(low, str):
            found[name] = CategoricalDistribution(values)
        elif isinstance(low, int):
            found[name] = IntDistribution(low, int(high), log=True)
        else:
            found[name] = FloatDistribution(low, float(high), log=low > 0)
    return found


def _difference(distribution: BaseDistribution, one: object, two: object) -> float:
    """0 for equal values, 1 for different choices and for the ends of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return float(one != two)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    scale: Callable[[float], float] = math.log if distribution.log else float
    extent = scale(distribution.high) - scale(distribution.low)
    assert isinstance(one, int | float)
    assert isinstance(two, int | float)
    return abs(scale(one) - scale(two)) / extent


ORDERS: dict[str, Callable[[Sequence[Configuration], int], Order]] = {
    "random": _Random,
    **{sampler: functools.partial(Sampled, sampler=sampler) for sampler in SAMPLERS if sampler != "random"},
}
"""Orders by name: random, tpe (that of sweeps), default (Optuna's own)."""


StoppingRule = Callable[[int, Configuration, int], bool]
"""A function of index, configuration and epoch: whether the training is stopped after this epoch."""


def _none(epochs: int, num_clips: int) -> StoppingRule:
    return lambda index, configuration, epoch: False


def _frontier(epochs: int, num_clips: int) -> StoppingRule:
    """As the sweep sets it up."""
    stopping = EarlyStopping(num_clips, grace=max(1, epochs // 4))

    def is_stopped(index: int, configuration: Configuration, epoch: int) -> bool:
        curve = Curve.of(str(index), configuration.num_params, configuration.curve[:epoch])
        return stopping.reason_to_stop(curve) is not None

    return is_stopped


def _asha(epochs: int, num_clips: int) -> StoppingRule:
    """Ray's, with the settings of pipelines/tuning/schedulers.py."""
    scheduler = ASHAScheduler("epoch", "best", "max", max_t=epochs + 1, grace_period=max(1, epochs // 9))

    def is_stopped(index: int, configuration: Configuration, epoch: int) -> bool:
        # It reads no more of a trial than its name, and nothing of the controller.
        trial: Any = SimpleNamespace(trial_id=str(index))
        controller: Any = None
        if epoch == 1:
            scheduler.on_trial_add(controller, trial)
        result = {"epoch": epoch, "best": max(configuration.curve[:epoch])}
        return bool(scheduler.on_trial_result(controller, trial, result) == TrialScheduler.STOP)

    return is_stopped


class MoAsha:
    """Multi-objective asynchronous successive halving (Schmucker et al., 2021, arXiv 2106.12639).

    At each rung, a training continues if it is in the first third of all that have reached the rung, sorted by
    `ranking`. Rungs begin where those of asha do.

    Args:
        epochs: Number of epochs of a complete training.
    """

    REDUCTION = 3

    def __init__(self, epochs: int) -> None:
        rung = max(1, epochs // 9)
        self._rungs: dict[int, list[tuple[float, float]]] = {}
        while rung < epochs:
            self._rungs[rung] = []
            rung *= self.REDUCTION

    def __call__(self, index: int, configuration: Configuration, epoch: int) -> bool:
        """Whether the training is stopped after this epoch."""
        if epoch not in self._rungs:
            return False
        rung = self._rungs[epoch]
        # Both objectives from 0 to 1, as in the hypervolume; smaller is better.
        size = math.log(configuration.num_params / IDEAL[0]) / math.log(WORST[0] / IDEAL[0])
        rung.append((size, 1 - max(configuration.curve[:epoch])))
        return len(rung) > 1 and ranking(np.array(rung)).index(len(rung) - 1) > len(rung) / self.REDUCTION


def ranking(points_PO: NDArray[np.float64]) -> list[int]:
    """Sorts P points with O objectives, which are minimised: the indices, best first.

    Non-dominated sorting; within a front, the best by the last objective, then always the point that is farthest from
    all points before it (epsilon net; Salinas et al., 2021, arXiv 2106.05680).
    """
    no_worse_PP = np.all(points_PO[:, None] <= points_PO[None], axis=2)
    dominates_PP = no_worse_PP & ~no_worse_PP.T
    left, order = np.ones(len(points_PO), dtype=bool), []
    while left.any():
        front = np.flatnonzero(left & ~dominates_PP[left].any(axis=0))
        left[front] = False
        order += [int(front[at]) for at in _epsilon_net(points_PO[front])]
    return order


def _epsilon_net(points_PO: NDArray[np.float64]) -> list[int]:
    chosen = [int(points_PO[:, -1].argmin())]
    nearest_P = np.full(len(points_PO), np.inf)
    while len(chosen) < len(points_PO):
        nearest_P = np.minimum(nearest_P, np.linalg.norm(points_PO - points_PO[chosen[-1]], axis=1))
        # Points that coincide have distance 0 too, and come last.
        nearest_P[chosen] = -1
        chosen.append(int(nearest_P.argmax()))
    return chosen


STOPPING: dict[str, Callable[[int, int], StoppingRule]] = {
    "none": _none,
    "frontier": _frontier,
    "asha": _asha,
    "mo-asha": lambda epochs, num_clips: MoAsha(epochs),
}
"""Rules by name: (epochs of a complete training, clips of the validation split) -> rule."""

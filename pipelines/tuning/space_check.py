"""Call a search space before a sweep starts, and refuse limits that none of its models can meet."""

import contextlib
import math
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

import search_spaces
from pipelines.core.errors import UserError
from pipelines.core.text import size
from pipelines.data.dataset import ShardDataset
from pipelines.data.demo_videos import CHANNELS, CLASSES, HEIGHT, WIDTH
from pipelines.data.kinds import kind_of
from pipelines.data.options import PreprocessOptions
from pipelines.storage.location import Location
from pipelines.tuning.build import Builder, Costs
from pipelines.tuning.options import SweepOptions
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.video.frame import FrameSize
from search_spaces import Question

__all__ = ["check_before_ray", "check_space", "size_costs", "space_errors"]

_UNITS = {"max_params": "parameters", "max_macs": "MACs for a frame"}
# Passes over the parameters of a space in search of its smallest model.
_PASSES = 2


@contextlib.contextmanager
def space_errors(what: str) -> Iterator[None]:
    """Turns an exception of a function of the user's into a UserError that names the file and the line.

    Args:
        what: The function, to begin the message with.
    """
    try:
        yield
    except Exception as error:
        # The first frame is the call.
        frames = traceback.extract_tb(error.__traceback__)[1:]
        own = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), None)
        place = f" in {own.filename}, line {own.lineno}" if own is not None else ""
        raise UserError(f"{what} fails{place}: {type(error).__name__}: {error}; correct it first") from error


def size_costs(options: Any, model: Any) -> dict[str, float]:
    """The costs of a model that do not depend on the cluster, by the names of their limits."""
    return {"max_params": model.num_params, "max_macs": model.multiply_adds}


def check_before_ray(options: SweepOptions, sweep: SweepDirectory) -> None:
    """Calls the space of a sweep that has not begun; if the size of the frames is known, checks the limits too.

    Raises:
        UserError: see `check_space`.
    """
    if sweep.journal.exists():
        return
    limits = {name: getattr(options, name) for name in _UNITS if getattr(options, name) is not None}
    if options.data is None:
        data = _without_clips(FrameSize(WIDTH, HEIGHT, CHANNELS), CLASSES)
    elif kind_of(options.data) == "shards":
        data = ShardDataset.open(options.data)
    else:
        # Arrays keep their own size: the limits are checked when the shards are there.
        data, limits = _without_clips(PreprocessOptions(videos="videos", out="shards").frame, ("a", "b")), {}
    builder = Builder(sweep, data, {"epochs": 1}, options.space)
    check_space(options.space, builder, data, limits, size_costs, streamable=options.streamable)


def _without_clips(frame: FrameSize, classes: Iterable[str]) -> ShardDataset:
    """A data set of which only these are known."""
    values = ((128.0,) * frame.channels, (1.0,) * frame.channels)
    return ShardDataset(Location.of("shards"), tuple(classes), "single_label", frame, {}, *values, {})


def check_space(
    name: str,
    builder: Builder,
    data: ShardDataset,
    limits: Mapping[str, float],
    costs: Costs,
    *,
    streamable: bool = False,
) -> None:
    """Calls a space, and looks for a model within each limit.

    Args:
        name: Of the space.
        builder: Makes options and model from what the space returns.
        data: The data set.
        limits: Maximum of some costs, by name.
        costs: See `Costs`.
        streamable: No model in both directions.

    Raises:
        UserError: the space fails or returns wrong options, or no model is found within a limit; the message has the
            smallest cost.
    """
    space, what = search_spaces.load(name), f"the space {name}"
    study = _study(data, streamable=streamable)

    def sample(params: Mapping[str, Any]) -> tuple[Mapping[str, float], dict[str, BaseDistribution]]:
        study.enqueue_trial(dict(params))
        with warnings.catch_warnings():
            # The bounds of a parameter may depend on another one.
            warnings.simplefilter("ignore")
            trial = study.ask()
            with space_errors(what):
                values = space.space(trial)
        return costs_of(values), trial.distributions

    def costs_of(values: Mapping[str, Any]) -> Mapping[str, float]:
        builder.check(values, what)
        options, model = builder.build("", values)
        is_excluded = streamable and model.bidirectional
        return {limit: math.inf if is_excluded else cost for limit, cost in costs(options, model).items()}

    with space_errors(f"{what}: the function of the models that it wants trained first"):
        first = space.first(data.frame.shape, None)
    given = [] if isinstance(first, Question) else [each for each in first if isinstance(each, Mapping)]
    for limit, most in limits.items():
        least = min((costs_of(values)[limit] for values in given), default=math.inf)
        if least > most and (least := min(least, _smallest(sample, limit, most))) > most:
            raise UserError(_message(name, limit, most, least))
    sample({})


def _study(data: ShardDataset, *, streamable: bool) -> optuna.Study:
    """A study that samples the lowest value, or the first choice, of each parameter; no question has been asked."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=_Lowest())
    for name, value in {"frame": list(data.frame.shape), "answers": None, "streamable": streamable}.items():
        study.set_user_attr(name, value)
    return study


class _Lowest(optuna.samplers.BaseSampler):
    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: BaseDistribution) -> Any:
        return _values(param_distribution)[0]


def _values(distribution: Any) -> list[Any]:
    """All choices; of a number, its bounds."""
    is_choice = isinstance(distribution, CategoricalDistribution)
    return list(distribution.choices) if is_choice else [distribution.low, distribution.high]


def _smallest(sample: Callable[..., Any], limit: str, most: float) -> float:
    """The smallest cost found by changing one parameter of the lowest model after the other; ends below `most`."""
    params, least = dict[str, Any](), math.inf
    for _ in range(_PASSES):
        costs, distributions = sample(params)
        least = min(least, costs[limit])
        for name, distribution in distributions.items():
            for value in _values(distribution):
                if least <= most:
                    return least
                with contextlib.suppress(UserError):
                    # A combination that no sampler gives may be impossible.
                    costs, _ = sample({**params, name: value})
                    if costs[limit] < least:
                        least, params = costs[limit], {**params, name: value}
    return least


def _message(name: str, limit: str, most: float, least: float) -> str:
    if limit == "memory_bytes":
        return (
            f"no model of the space {name} fits into the memory of a node or GPU, {size(most)}: the smallest takes "
            f"{size(least)}; make shards of shorter clips (preprocess --max-frames), or give another --space"
        )
    if least == math.inf:
        return f"the space {name} has no model in one direction; leave out --streamable, or give another --space"
    return (
        f"{limit} {most:,.0f} excludes all models of the space {name}, whose smallest has {least:,.0f} "
        f"{_UNITS[limit]}; give --{limit.replace('_', '-')} {least:.0f} or more"
    )

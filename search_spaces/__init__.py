"""Define the search spaces of a sweep, and load them by name.

A search space is a module with two functions:

    space(trial) -> dict        samples values from the Optuna trial; returns options of pipelines.train by name
    baselines(frame) -> list    options of the models to train first, for frames of (height, width, channels)

Instead of `baselines`, it may have `first(frame, answers)`, which can ask a `Question` about the data: the sweep trains
the models of the question, calls `first` again with the answer, and so on until it returns the list of models.

The frame of the data set is in `trial.study.user_attrs["frame"]`, as [height, width, channels], and the answers, by
the names of the questions, in `trial.study.user_attrs["answers"]`. `small` is the default
space, `shapes` one of cells, modes and ranks, `ranks` one of ranks alone, `formats` one of tensor formats. The module
`paper` is not a search space: it has the paper's experiments, for pipelines.reproduce.

Your own space is a function in a module, given as `--space package.module:function`, which is searched in the current
directory first. A function `baselines` in the same module returns the models to train first. Options that the space
does not set have the defaults of train. For example, `lips.py` for `--space lips:both_ways`:

    from search_spaces.shapes import baselines, space

    def both_ways(trial):
        options = space(trial)
        options["bidirectional"] = trial.suggest_categorical("bidirectional", [False, True])
        options["weight_averaging"] = 0.98
        return options

Only the driver of a sweep calls it, so that the file is not needed on the other nodes of a cluster. A parameter must
have the same choices in each trial: if they differ, use several names, for example `in_modes_4` and `in_modes_5`.
"""

import importlib
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

__all__ = ["NAMES", "Answers", "First", "Question", "Sampled", "Space", "load"]

NAMES = ("small", "shapes", "ranks", "formats")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a sweep finds out about the data before it searches, by training models that differ in one thing."""

    name: str
    """its key in the answers"""
    text: str
    """what is asked, as the log and the report show it"""
    models: Mapping[str, Mapping[str, Any]]
    """answer -> options of the model that stands for it; that of the best model on the validation split is taken"""
    preferred: Collection[str] = ()
    """the best of these answers is taken unless it is worse than another one by more than chance may explain"""
    epochs: float = 1.0
    """share of the epochs of a trial for which they are trained"""
    teaches: bool = False
    """whether the later models learn from the scores of these, which may then exceed the limits of the sweep"""
    taught: str | None = None
    """the answer whose model learns from the teachers so far; if another one wins, no later model does"""
    taught_epochs: float = 1.0
    """share of the epochs of a trial for that model, where the comparison shall be at equal time"""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A model to train first, by the values of the parameters that `space` samples: the sampler learns from it."""

    params: Mapping[str, Any]


Answers = Mapping[str, str] | None
"""The answers so far by the names of the questions; None in a sweep of so few trials that nothing is asked."""


First = Question | Sequence[Mapping[str, Any] | Sampled]
"""The next question, or the models to train first: options of train, or values of what `space` samples."""


def _no_models(frame: Sequence[int], answers: Answers) -> First:
    return []


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """The functions of a search space."""

    space: Callable[[Any], dict[str, Any]]
    """Optuna trial -> options of train."""
    first: Callable[[Sequence[int], Answers], First] = _no_models
    """Frame (height, width, channels) and answers -> what to train before anything is sampled."""


def load(name: str) -> Space:
    """Loads the search space with this name, or the function given as `package.module:function`.

    Raises:
        ValueError: there is no such space, module or function, or importing the module fails.
    """
    module_name, colon, function_name = name.partition(":")
    if colon:
        module = _import(module_name, name)
    elif name in NAMES:
        module, function_name = importlib.import_module(f"search_spaces.{name}"), "space"
    else:
        raise ValueError(
            f"there is no search space {name!r}; choose {', '.join(NAMES)}, or your own as package.module:function"
        )
    function = getattr(module, function_name, None)
    if not callable(function):
        what = "does not exist" if function is None else f"is not a function but {function!r}"
        raise ValueError(
            f"search space {name!r}: {function_name!r} in {module_name} {what}; give package.module:function"
        )
    if callable(first := getattr(module, "first", None)):
        return Space(space=function, first=first)
    if callable(baselines := getattr(module, "baselines", None)):
        return Space(space=function, first=lambda frame, answers: baselines(frame))
    return Space(space=function)


def _import(module_name: str, name: str) -> ModuleType:
    """Imports a module, also from the current directory, which stays on sys.path for the imports of the module."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    # The import system may not have seen a file that was written a moment ago.
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            raise ValueError(
                f"search space {name!r}: there is no module {missing} in {os.getcwd()} or among the installed ones; "
                "give package.module:function"
            ) from error
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"search space {name!r}: importing {module_name} fails with {what}; fix it first") from error

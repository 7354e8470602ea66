"""What a sweep tries: data, not machinery.

A search space is a module with two functions:

    space(trial) -> dict        asks the Optuna trial for values; gives options of pipelines.train by their names
    baselines(frame) -> list    options of the points to try first, for frames of (height, width, channels)

The frame of the data set is in `trial.study.user_attrs["frame"]`, as [height, width, channels]. `shapes` is the space
to start with, `ranks` a smaller one. `paper` is no such module: it has the paper's own experiments, for
pipelines.reproduce.

A space of your own is a function in a file of yours, given as `--space package.module:function` and looked for in the
current directory first. `baselines`, if there is a function of this name beside it, gives the first points; what the
space does not set keeps the default of train. For example `lips.py`, for `--space lips:both_ways`:

    from search_spaces.shapes import baselines, space

    def both_ways(trial):
        options = space(trial)
        options["bidirectional"] = trial.suggest_categorical("bidirectional", [False, True])
        options["weight_averaging"] = 0.98
        return options

Only the driver of a sweep calls it: the machines of a cluster need not have the file. A name that is asked for must
stand for the same choices each time: call modes `in_modes_4` and `in_modes_5`, not `in_modes`, if those differ.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

__all__ = ["NAMES", "Space", "load"]

NAMES = ("shapes", "ranks")


def _no_baselines(frame: Sequence[int]) -> list[dict[str, Any]]:
    return []


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """A search space, whoever wrote it."""

    space: Callable[[Any], dict[str, Any]]
    """From an Optuna trial to options of train."""
    baselines: Callable[[Sequence[int]], list[dict[str, Any]]] = _no_baselines
    """From the frame (height, width, channels) to the points to try first."""


def load(name: str) -> Space:
    """The search space of this name, or the function that `package.module:function` names.

    Raises:
        ValueError: there is no such space, module or function, or the module fails when it is imported.
    """
    module_name, colon, function_name = name.partition(":")
    if colon:
        module = _import(module_name, name)
    elif name in NAMES:
        module, function_name = importlib.import_module(f"search_spaces.{name}"), "space"
    else:
        raise ValueError(
            f"there is no search space {name!r}; there are {', '.join(NAMES)}, and your own as package.module:function"
        )
    function, baselines = getattr(module, function_name, None), getattr(module, "baselines", None)
    if not callable(function):
        what = "is not there" if function is None else f"is no function but {function!r}"
        raise ValueError(
            f"search space {name!r}: {function_name!r} in {module_name} {what}; give package.module:function"
        )
    return Space(space=function, baselines=baselines if callable(baselines) else _no_baselines)


def _import(module_name: str, name: str) -> ModuleType:
    """A user's module, from the current directory first, as `python -m` has it; that stays so for what it imports."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    # A file that was written a moment ago may not be in the finder's listing yet.
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
        raise ValueError(f"search space {name!r}: importing {module_name} fails with {what}; mend it first") from error

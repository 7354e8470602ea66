"""What a sweep tries: data, not machinery.

A search space is a module with two functions:

    space(trial) -> dict        asks the Optuna trial for values; gives options of pipelines.train by their names
    baselines(frame) -> list    options of the points to try first, for frames of (height, width, channels)

`paper` is no such module: it has the paper's own experiments, for pipelines.reproduce.

The frame of the data set is in `trial.study.user_attrs["frame"]`, as [height, width, channels].
"""

import importlib
from types import ModuleType

__all__ = ["NAMES", "load"]

NAMES = ("shapes", "ranks")


def load(name: str) -> ModuleType:
    """The search space of this name. Raises ValueError that lists the names there are."""
    if name not in NAMES:
        raise ValueError(f"there is no search space {name!r}; there are {', '.join(NAMES)}")
    return importlib.import_module(f"search_spaces.{name}")

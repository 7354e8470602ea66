"""Define the options of a bake-off, and the cells of its table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.storage.location import Location
from pipelines.training.run_directory import RunDirectory
from search_spaces.bakeoff import CONTENDERS, Contender

__all__ = ["BakeoffOptions", "Cell"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BakeoffOptions:
    """Compare tensor formats and recurrent matrices at equal numbers of parameters, on one or several data sets.

    For each data set, budget and contender, some models are trained for a third of the steps, and the one with the
    highest validation metric again for all steps, with new seeds. The test split is evaluated once for each seed.
    """

    bakeoff: tuple[str, ...]
    """directories of shards, written by preprocess; their names stand in the table"""
    out: str = "runs/bakeoff"
    """directory of the table, the figure and the runs"""
    budgets: tuple[int, ...] = (1_000, 3_000, 10_000, 30_000)
    """the most parameters of a whole model; the table has a row for each"""
    contenders: tuple[str, ...] = tuple(map(str, CONTENDERS))
    """INPUT+RECURRENT: formats of the two matrices, those of the default"""
    num_trials: int = 3
    """models to search among, for each data set, budget and contender"""
    seeds: int = 3
    """trainings of the selected model"""
    steps: int = 1_000
    """training steps of the selected model, rounded to whole epochs"""
    resume: bool = False
    """resume in OUT; complete runs are not run again"""
    overwrite: bool = False
    """delete an existing OUT first"""

    def __post_init__(self) -> None:
        for name in self.contenders:
            if name not in map(str, CONTENDERS):
                raise ValueError(f"contenders must be among {', '.join(map(str, CONTENDERS))}, got {name!r}")
        for name, least in (("num_trials", 1), ("seeds", 1), ("steps", 3)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.budgets or min(self.budgets) < 1:
            raise ValueError(f"budgets must be positive numbers of parameters, got {list(self.budgets)}")
        names = [Location.of(place).absolute().name for place in self.bakeoff]
        if len(set(names)) < len(names):
            raise ValueError(f"the directories of shards must have different names, got {', '.join(names)}")

    def settings(self) -> dict[str, Any]:
        """The options that all runs share; data sets, budgets, contenders and seeds may be added later."""
        return {"num_trials": self.num_trials, "steps": self.steps}

    @property
    def chosen(self) -> tuple[Contender, ...]:
        """The contenders."""
        return tuple(each for each in CONTENDERS if str(each) in self.contenders)


class Cell(NamedTuple):
    """A cell of the table: a few models compete for it, and the best one is trained with several seeds."""

    budget: int
    data: str
    """name of the directory of shards"""
    contender: Contender

    @classmethod
    def of(cls, path: str) -> "Cell":
        """The cell of a run, by its directory in OUT."""
        _, budget, data, contender, _ = path.split("/")
        return cls(int(budget), data, next(each for each in CONTENDERS if str(each) == contender))

    def run(self, out: Path, name: str) -> RunDirectory:
        """The directory of a run: `search-0` to `search-N`, or `seed-1` to `seed-N`."""
        return RunDirectory(out / "runs" / str(self.budget) / self.data / str(self.contender) / name)

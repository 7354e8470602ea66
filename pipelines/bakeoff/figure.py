"""Draw the differences of contenders to the first one, a panel for each budget."""

from collections.abc import Mapping
from pathlib import Path

from pipelines.bakeoff.compare import Difference
from pipelines.evaluation.plots import BLUE, GREY, ORANGE, plain_axes, save
from search_spaces.bakeoff import CONTENDERS

__all__ = ["draw"]


def draw(path: Path, compared: Mapping[tuple[int, str], Difference]) -> None:
    """Writes a PNG: the mean over data sets with its interval, and a small mark for each data set.

    Args:
        path: The file.
        compared: For each budget and contender, see compare.differences.
    """
    from matplotlib.figure import Figure

    budgets = sorted({budget for budget, _ in compared})
    names = [str(each) for each in CONTENDERS if any(str(each) == name for _, name in compared)]
    figure = Figure(figsize=(2.2 + 2.6 * len(budgets), 1.2 + 0.3 * len(names)), dpi=128)
    figure.set_layout_engine("constrained")
    figure.supxlabel(f"points of the test metric above {CONTENDERS[0]}", fontsize=10)
    panels = figure.subplots(1, len(budgets), sharey=True, squeeze=False)[0]
    for axes, budget in zip(panels, budgets, strict=True):
        for height, name in enumerate(reversed(names)):
            one = compared.get((budget, name))
            if one is None:
                axes.annotate("-", (0, height), color=GREY, ha="center", va="center")
                continue
            colour = GREY if not one.is_significant else BLUE if one.mean > 0 else ORANGE
            axes.plot([100 * value for value in one.by_data.values()], [height] * len(one.by_data), "|", color=GREY)
            axes.plot([100 * one.low, 100 * one.high], [height, height], color=colour, linewidth=2)
            axes.plot(100 * one.mean, height, "o", color=colour)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_title(f"{budget:,} parameters", fontsize=10)
        axes.set_yticks(range(len(names)), list(reversed(names)))
        plain_axes(axes)
    save(figure, path)

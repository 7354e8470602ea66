"""pipelines/report/plot.py: labels of pareto.png hide nothing."""

from typing import Any

import numpy as np

from pipelines.report import plot
from pipelines.report.pareto_data import marks


def trial(name: str, num_params: int, metric: float) -> dict[str, Any]:
    values = {"trial": name, "num_params": num_params, "val_metric": metric, "test_metric": None}
    return {**values, "config": {}, "state": "complete"}


def test_labels_lie_inside_the_axes_and_cover_no_mark_and_no_other_label() -> None:
    frontier = [trial("a", 1_000, 0.5), trial("b", 2_000, 0.7), trial("c", 2_400, 0.72), trial("d", 100_000, 0.8)]
    rng = np.random.default_rng(0)
    # Below and to the right of each point, where the numbers usually are.
    others = [
        trial(f"{point['trial']}{i}", int(point["num_params"] * 10 ** rng.uniform(0, 0.3)), value)
        for point in frontier
        for i, value in enumerate(point["val_metric"] - rng.uniform(0.02, 0.08, 4))
    ]
    data = {
        "trials": [*frontier, *others],
        "frontier": frontier,
        "best": "c",
        "knee": "b",
        "highest": "d",
        "baseline": None,
        "chance": 0.1,
        "metric": "accuracy",
        "dataset": "crowded",
    }
    axes = plot._draw_figure(data).axes[0]
    texts = [text for text in axes.texts if not text.get_text().startswith("chance")]
    assert {text.get_text() for text in texts} >= {"knee", "best", "highest", "1,000: 50%", "100,000: 80%"}
    boxes = [text.get_window_extent() for text in texts]
    drawn = plot._mark_boxes(axes, marks(data))
    assert len(drawn) == 20
    for box in boxes:
        assert box.count_overlaps(drawn) == 0
        assert box.count_overlaps(boxes) == 1
        assert axes.bbox.contains(*box.min)
        assert axes.bbox.contains(*box.max)

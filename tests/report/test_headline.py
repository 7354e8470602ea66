"""The sentence at the head of the page."""

from typing import Any

import pytest

from pipelines.report.headline import headline


def point(name: str, size: int, test: float | None, margin: float = 0.01, **more: Any) -> dict[str, Any]:
    """A trial with an interval of twice the margin."""
    interval = None if test is None else [test - margin, test + margin]
    values = {"test_metric": test, "test_interval": interval, "val_metric": 0.9, "val_interval": [0.8, 1.0]}
    return {"trial": name, "num_params": size, "state": "complete", "config": {}, **values, **more}


CNN = {"state": "baseline", "config": {"input": "cnn"}}


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([point("b", 160_000, 0.99)], "as good as the largest model of the frontier (99.0%), with 160 times fewer"),
        ([point("b", 5_000, 0.7)], "28.0 points more than the largest model of the frontier (70.0%), with 5.0 times"),
        ([point("b", 5_000, 1.0, 0.0)], "2.0 points less than the largest model of the frontier (100.0%)"),
        ([point("b", 5_000, 0.9, 0.1)], "not significantly different from the largest model of the frontier (90.0%)"),
        ([point("b", 5_000, 0.98, **CNN)], "as good as a small CNN (98.0%), with 5.0 times fewer parameters."),
        ([point("b", 1_200, 0.99)], "98.0% on test, where guessing gives 10.0%."),
        ([point("b", 5_000, None)], "1,000 parameters: 90.0% on validation, as good as the largest"),
    ],
    ids=["as good", "better", "worse", "uncertain", "a baseline", "none is larger", "not tested"],
)
def test_the_best_model_is_compared_with_the_best_larger_one(others: list[dict[str, Any]], expected: str) -> None:
    trials = [point("a", 1_000, 0.98), *others]
    data = {"best": "a", "chance": 0.1, "frontier": [each for each in trials if each["state"] == "complete"]}
    data["baselines"] = [each for each in trials if each["state"] == "baseline"]
    assert expected in headline(data)

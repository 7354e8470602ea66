"""Test baselines/sizes.py: baselines are near the requested sizes."""

import pytest

from pipelines.baselines.config import BaselineConfig
from pipelines.baselines.network import build
from pipelines.baselines.sizes import TARGETS, baseline_options

ALL = {f"{kind}-{target}" for kind in ("thumbnail", "low-rank", "cnn") for target in TARGETS} | {"linear"}


@pytest.mark.parametrize(
    ("frame", "num_classes", "left_out"),
    [
        # 32 x 64 values times one row of weights are more than 1,000 parameters.
        ((32, 64, 1), 10, {"low-rank-1000"}),
        ((60, 80, 1), 26, {"low-rank-1000", "low-rank-3000"}),
        ((24, 32, 3), 10, {"low-rank-1000"}),
        ((120, 160, 3), 11, {"low-rank-1000", "low-rank-3000", "low-rank-10000"}),
        ((4, 8, 1), 3, set()),
        ((1, 1, 1), 2, set()),
        # The classifier alone has more than 1,000 parameters.
        ((24, 32, 1), 250, {"thumbnail-1000", "low-rank-1000", "cnn-1000"}),
    ],
)
def test_sizes_are_within_a_tenth_of_the_target_and_others_are_left_out(frame, num_classes, left_out):
    found = baseline_options(frame, num_classes)
    assert ALL - set(found) == left_out
    for name, options in found.items():
        height, width, channels = frame
        config = BaselineConfig(
            **options, width=width, height=height, channels=channels,
            classes=tuple(map(str, range(num_classes))), mean=(0.0,), std=(1.0,),
        )  # fmt: skip
        assert build(config).num_params == config.num_params
        assert 0 < config.input_params < config.num_params
        if name == "linear":
            assert config.num_params <= 3_300
        else:
            assert config.num_params == pytest.approx(int(name.rpartition("-")[2]), rel=0.1)


def test_other_targets_can_be_requested():
    assert set(baseline_options((32, 64, 1), 10, (3_000,))) == {"thumbnail-3000", "low-rank-3000", "cnn-3000", "linear"}

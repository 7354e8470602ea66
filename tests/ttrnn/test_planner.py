"""Plans are integers: what they say of the work is checked by hand and against the paper's own count."""

import pytest

from tests.ttrnn.test_contract import SHAPES
from ttrnn.planner import Plan, _cost, block_rows, groupings, plan
from ttrnn.shapes import TTShape

PAPER = TTShape((8, 20, 20, 18), (16, 4, 4, 4), 4)


def sizes(chosen):
    """Numbers of cores merged, first cores first."""
    return [len(group.cores) for group in reversed(chosen.groups)]


@pytest.mark.parametrize("name", SHAPES)
def test_groups_take_every_core_once_last_cores_first(name):
    shape = TTShape(*SHAPES[name])
    for groups in groupings(shape):
        assert [core for group in reversed(groups) for core in group.cores] == list(range(shape.num_cores))


def test_multiply_adds_of_the_two_ends_are_the_papers_and_the_dense_ones():
    by_size = {len(groups): Plan(groups, True, 0).multiply_adds for groups in groupings(PAPER)}
    assert by_size[4] == PAPER.multiply_adds()
    assert by_size[1] == PAPER.num_dense_params


def test_multiply_adds_and_sizes_of_two_groups_by_hand():
    (groups,) = [g for g in groupings(PAPER) if [len(one.cores) for one in g] == [2, 2]]
    first, second = groups
    assert (first.m, first.n, first.right_rank, first.left_rank, first.before, first.behind) == (360, 16, 1, 4, 160, 1)
    assert (second.m, second.n, second.right_rank, second.left_rank) == (160, 64, 4, 1)
    assert (second.before, second.behind) == (1, 16)
    assert (first.in_values, first.out_values, second.in_values, second.out_values) == (57_600, 10_240, 10_240, 1_024)
    assert Plan(groups, True, 0).multiply_adds == 57_600 * 64 + 64 * 640 * 16


PLANS = {
    # shape, rows, options, sizes of the groups
    "many frames of video: the first product is fat": (PAPER, 4096, {"itemsize": 2}, [1, 1, 2]),
    "one frame: nothing is merged for it": (PAPER, 1, {}, [1, 1, 1, 1]),
    "a matrix of few modes": (TTShape((240, 240), (64, 16), 4), 4096, {}, [1, 1]),
    "one mode": (TTShape((7,), (5,), ()), 4096, {}, [1]),
    "a rank so high that the dense matrix is less work": (TTShape((4, 4), (4, 4), 16), 1 << 20, {}, [2]),
}


@pytest.mark.parametrize(("shape", "rows", "options", "expected"), PLANS.values(), ids=PLANS)
def test_plan_suits_the_work(shape, rows, options, expected):
    assert sizes(plan(shape, rows, **options)) == expected


def test_plan_is_the_cheapest_of_all_and_cost_grows_with_the_work():
    chosen = plan(PAPER, 1000)
    costs = [_cost(PAPER, groups, True, 1000, 4, False) for groups in groupings(PAPER)]
    assert chosen.keep
    assert chosen.cost == min(costs) < max(costs)
    assert chosen.cost < plan(PAPER, 2000).cost
    assert chosen.cost < plan(PAPER, 1000, input_gradient=True).cost
    assert plan(PAPER, 1000, itemsize=2).cost < chosen.cost < plan(PAPER, 1000, itemsize=8).cost


@pytest.mark.parametrize(
    ("num_rows", "row_itemsize", "rank", "keep"),
    [(1 << 20, 1, 2, True), (1 << 20, 1, 8, False), (1 << 20, 4, 8, True), (256, 1, 8, True)],
    ids=["smaller than the rows", "larger", "smaller than float rows", "little in all"],
)
def test_what_lies_between_groups_is_kept_where_it_is_small(num_rows, row_itemsize, rank, keep):
    chosen = plan(TTShape((240, 240), (64, 16), rank), num_rows, row_itemsize=row_itemsize)
    assert chosen.keep == keep
    between_bytes = 4 * sum(group.out_values for group in chosen.groups[:-1])
    assert (between_bytes <= 57_600 * row_itemsize or between_bytes * num_rows <= 64 << 20) == keep


BLOCKS = {
    # shape, rows of a block in float32
    "frames of video: as many as stay in cache": (PAPER, 13),
    "narrow rows of much output: by what comes out": (TTShape((2, 2), (512, 512), 4), 8),
    "a large matrix: enough rows to be worth reading it": (TTShape((57_600,), (256,), ()), 512),
}


@pytest.mark.parametrize(("shape", "rows"), BLOCKS.values(), ids=BLOCKS)
def test_blocks_hold_rows_that_stay_in_cache(shape, rows):
    groups = plan(shape, 4096).groups
    assert block_rows(groups, 4) == rows


def test_a_block_is_never_empty():
    assert block_rows(plan(TTShape((2000, 2000), (2, 2), 1), 10).groups, 8) == 1


def test_plan_of_many_modes_is_soon_made():
    assert sum(1 for _ in groupings(TTShape((2,) * 20, (2,) * 20, 2))) == 1 + 19 + 171 + 969 + 1


def test_plan_says_what_it_does_in_words():
    assert str(plan(PAPER, 4096, itemsize=2)) == "(8 -> 16) (20 -> 4) (20x18 -> 4x4), 3,883,008 MACs a row"
    assert "computed again" in str(plan(TTShape((240, 240), (64, 16), 8), 1 << 20))

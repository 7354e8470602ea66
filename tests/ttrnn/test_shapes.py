import logging
import math

import pytest

from ttrnn.shapes import (
    TTShape,
    auto_modes,
    check_modes,
    format_modes,
    frame_modes,
    gate_modes,
    max_ranks,
    parse_modes,
)

UCF11, HOLLYWOOD2, YOUTUBE = (8, 20, 20, 18), (10, 18, 13, 30), (4, 20, 20, 36)

# docs of the paper: input-to-hidden parameters, no bias, for 1, 3 and 4 gates.
PAPER = [
    *[(UCF11, 4, gates, count) for gates, count in ((1, 2976), (3, 3232), (4, 3360))],
    *[(HOLLYWOOD2, 4, gates, count) for gates, count in ((1, 2624), (3, 2944), (4, 3104))],
    *[(YOUTUBE, 4, gates, count) for gates, count in ((1, 3200), (3, 3328), (4, 3392))],
    *[(UCF11, 3, gates, count) for gates, count in ((1, 1752), (3, 1944), (4, 2040))],
    *[(UCF11, 5, gates, count) for gates, count in ((1, 4520), (3, 4840), (4, 5000))],
]


@pytest.mark.parametrize(
    ("in_modes", "rank", "gates", "count"),
    PAPER,
    ids=lambda value: format_modes(value) if isinstance(value, tuple) else str(value),
)
def test_input_parameters_are_those_of_the_paper(in_modes, rank, gates, count):
    assert TTShape(in_modes, gate_modes((4, 4, 4, 4), gates), rank).num_params == count


@pytest.mark.parametrize(
    ("in_modes", "dense"),
    [
        (UCF11, (14_745_600, 44_236_800, 58_982_400)),
        (HOLLYWOOD2, (17_971_200, 53_913_600, 71_884_800)),
        (YOUTUBE, (14_745_600, 44_236_800, 58_982_400)),
    ],
    ids=["ucf11", "hollywood2", "youtube"],
)
def test_dense_counts_are_those_of_the_paper(in_modes, dense):
    assert tuple(TTShape(in_modes, gate_modes((4, 4, 4, 4), gates), 4).num_dense_params for gates in (1, 3, 4)) == dense


@pytest.mark.parametrize("asked", [4, (4,), (4, 4, 4)], ids=["number", "one", "all"])
def test_ranks_may_be_given_once_or_for_every_bond(asked):
    assert TTShape(UCF11, (4, 4, 4, 4), asked).ranks == (4, 4, 4)


def test_ranks_above_what_the_modes_allow_are_clipped_and_said(caplog):
    with caplog.at_level(logging.WARNING):
        shape = TTShape((2, 3, 2), (2, 1, 2), 99)
    assert shape.ranks == (4, 4)
    assert "99x99" in caplog.text
    assert "4x4" in caplog.text


@pytest.mark.parametrize(
    ("in_modes", "out_modes", "most"),
    [
        ((2, 3, 2), (2, 1, 2), (4, 4)),
        ((8, 20, 20, 18), (12, 4, 4, 4), (96, 5760, 72)),
        ((1, 5, 1, 2), (3, 1, 1, 1), (3, 2, 2)),
        ((72,), (16,), ()),
    ],
    ids=["even", "paper", "modes of 1", "one mode"],
)
def test_ranks_at_most_are_the_lesser_side_of_each_bond(in_modes, out_modes, most):
    assert max_ranks(in_modes, out_modes) == most


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (((2, 3), (2,), 2), "2x3 and 2"),
        (((), (), 2), "at least one"),
        (((2, 3, 4), (2, 2, 2), (2, 2, 2)), "2x2x2"),
        (((2, 0), (2, 2), 2), "in_modes must be positive, got 2x0"),
        (((2, 2), (2, 2), 0), "ranks must be positive, got 0"),
    ],
    ids=["numbers differ", "none", "too many ranks", "mode 0", "rank 0"],
)
def test_impossible_shapes_are_refused_with_their_values(args, words):
    with pytest.raises(ValueError, match=words):
        TTShape(*args)


@pytest.mark.parametrize("text", ["", "8x", "8*20", "8x-2", "0x4", "8 x 20", "8x2.5", "²x3"])
def test_modes_that_are_not_text_forms_are_refused_by_value(text):
    with pytest.raises(ValueError, match="8x20x20x18"):
        parse_modes(text)


def test_text_form_goes_both_ways():
    assert parse_modes("8x20x20x18") == UCF11
    assert format_modes(UCF11) == "8x20x20x18"


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(120, 160, 3), (60, 80, 1), (32, 64, 1), (59, 7, 3), (1, 1, 1)]
)
def test_frame_modes_keep_rows_and_columns_apart(height, width, channels):
    y1, y2, x1, x2 = frame_modes(height, width, channels)
    assert (y1 * y2, x1 * x2) == (height, width * channels)
    assert auto_modes(height, width, channels, 4) == (y1, y2, x1, x2)


def test_auto_modes_take_any_number_of_modes():
    assert [math.prod(auto_modes(32, 64, 1, d)) for d in (1, 2, 3, 5, 6)] == [2048] * 5


def test_modes_that_do_not_multiply_to_the_frame_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match=r"56,000 .* the frame has 57,600 values; try 15x15x16x16"):
        check_modes((7, 20, 20, 20), 57_600, "in_modes", "the frame has")


def test_multiply_adds_are_those_of_the_chain_from_the_last_core():
    # Two cores: (M1, M2) x G2 costs M1 * M2 * N2 * R, then G1 costs M1 * R * N1 * N2.
    assert TTShape((3, 5), (2, 7), 4).multiply_adds() == 3 * 5 * 7 * 4 + 3 * 4 * 2 * 7

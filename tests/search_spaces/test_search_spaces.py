"""Test search_spaces: all samples are valid models, modes follow the rules, users' own spaces are loaded."""

import dataclasses
import itertools
import math
import subprocess
import sys
import warnings
from pathlib import Path

import optuna
import pytest

import search_spaces
from pipelines.training.options import TrainOptions
from search_spaces import shapes, small
from ttrnn.formats import FORMATS
from ttrnn.model import ModelConfig

FRAMES = [(120, 160, 3), (60, 80, 1), (32, 64, 1), (59, 7, 3), (1, 1, 1)]
ROOT = Path(__file__).resolve().parents[2]
FIELDS = {field.name for field in dataclasses.fields(ModelConfig)}
OPTIONS = {field.name for field in dataclasses.fields(TrainOptions)}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Returns a function that writes a module into the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    before = set(sys.modules)

    def write(name, text):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def make_study(frame, sampler=None):
    found = optuna.create_study(
        directions=["maximize", "minimize"], sampler=sampler or optuna.samplers.RandomSampler(seed=0)
    )
    found.set_user_attr("frame", list(frame))
    return found


def first_models(space, frame, answers=None):
    """Options of all models that a space wants trained first, those of its questions included."""
    found = space.first(frame, answers)
    if isinstance(found, search_spaces.Question):
        answer = list(found.models)[-1]
        return [*found.models.values(), *first_models(space, frame, {**answers, found.name: answer})]
    study = make_study(frame)
    study.set_user_attr("answers", answers)
    models = []
    for each in found:
        if isinstance(each, search_spaces.Sampled):
            study.enqueue_trial(dict(each.params))
            each = space.space(study.ask())
        models.append(each)
    return models


def model(values, frame):
    assert values.keys() <= OPTIONS
    given = {name: value for name, value in values.items() if name in FIELDS}
    return ModelConfig(height=frame[0], width=frame[1], channels=frame[2], classes=("a", "b"), **given)


@pytest.mark.parametrize("name", search_spaces.NAMES)
@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_every_sample_of_a_space_is_a_model_that_fits_the_frame_without_clipping_ranks(name, frame):
    space, study = search_spaces.load(name), make_study(frame)
    points = [space.space(study.ask()) for _ in range(60)]
    configs = [model(values, frame) for values in points]
    for values, config in zip(points, configs, strict=True):
        for text in ("in_modes", "hidden_modes", "ranks", "recurrent_ranks"):
            assert values[text] == getattr(config, text)
    assert len({config.num_params for config in configs}) > 20
    assert all(
        model(values, frame).num_params for answers in (None, {}) for values in first_models(space, frame, answers)
    )


@pytest.mark.parametrize(("size", "num_modes"), [(12, 1), (12, 2), (60, 3), (64, 4), (13, 3), (1, 2)])
def test_factorisations_are_all_of_them_once(size, num_modes):
    found = list(shapes.factorisations(size, num_modes))
    assert len(set(found)) == len(found)
    assert all(math.prod(modes) == size for modes in found)

    def count(size, num_modes):
        return (
            1 if num_modes == 1 else sum(count(size // f, num_modes - 1) for f in range(1, size + 1) if size % f == 0)
        )

    assert len(found) == count(size, num_modes)


@pytest.mark.parametrize("frame", FRAMES, ids=str)
@pytest.mark.parametrize("num_modes", range(2, 7))
def test_input_modes_are_few_different_and_even_factors_of_the_axes(frame, num_modes):
    found, (height, width, channels) = shapes.input_modes(*frame, num_modes), frame
    assert 0 < len(found) == len(set(found)) <= 24
    ways = [
        (rows, columns)
        for num_rows in range(1, num_modes)
        for rows in shapes.factorisations(height, num_rows)
        for columns in shapes.factorisations(width * channels, num_modes - num_rows)
        if columns[-1] % channels == 0
    ]
    fewest = min((rows + columns).count(1) for rows, columns in ways)
    most_even = min(max(rows + columns) / min(rows + columns) for rows, columns in ways)
    for modes in found:
        cuts = [(rows, columns) for rows, columns in ways if rows + columns == modes]
        assert cuts, "a mode is a factor of rows or of columns"
        assert modes.count(1) == fewest
        assert max(modes) <= 1.5 * most_even * min(modes)
        pixels = [(rows, (*columns[:-1], columns[-1] // channels)) for rows, columns in cuts]
        assert any(all(list(axis) in (sorted(axis), sorted(axis)[::-1]) for axis in cut) for cut in pixels)


def test_input_modes_of_some_frames():
    assert shapes.input_modes(32, 64, 1, 2) == ((32, 64),)
    assert shapes.input_modes(32, 64, 1, 3) == ((32, 8, 8),)
    assert shapes.input_modes(32, 64, 1, 4) == ((4, 8, 8, 8), (8, 4, 8, 8))
    assert shapes.input_modes(60, 80, 1, 3) == ((60, 8, 10), (60, 10, 8))
    assert shapes.input_modes(59, 7, 3, 4) == ((1, 59, 7, 3), (59, 1, 7, 3), (59, 7, 1, 3))


@pytest.mark.parametrize(("size", "num_modes"), [*itertools.product((16, 32, 64, 128, 256), range(2, 7))])
def test_hidden_modes_are_the_most_even_ones_ascending_and_descending(size, num_modes):
    found = shapes.hidden_modes(size, num_modes)
    rising = found[0]
    assert math.prod(rising) == size
    assert list(rising) == sorted(rising)
    assert max(rising) <= 2 * min(rising)
    assert set(found) == {rising, rising[::-1]}


def test_all_numbers_of_modes_hidden_sizes_and_choices_are_sampled():
    study = make_study((32, 64, 1))
    configs = [model(shapes.space(study.ask()), (32, 64, 1)) for _ in range(200)]
    assert {config.in_modes.count("x") + 1 for config in configs} == {2, 3, 4, 5, 6}
    assert {config.hidden_size for config in configs} == {16, 32, 64, 128, 256}
    assert {config.cell for config in configs} == {"rnn", "gru", "lstm"}
    assert {config.recurrent_ranks == "none" for config in configs} == {True, False}
    for num_modes in range(2, 7):
        modes = {tuple(map(int, config.in_modes.split("x"))) for config in configs}
        assert set(shapes.input_modes(32, 64, 1, num_modes)) <= modes


@pytest.mark.parametrize("frame", FRAMES[:3], ids=str)
def test_random_samples_spread_over_orders_of_magnitude(frame):
    study = make_study(frame)
    sizes = sorted(model(shapes.space(study.ask()), frame).num_params for _ in range(200))
    assert sizes[0] < 1000
    assert sizes[-1] > 200_000
    # Deciles: no tenth of the draws is concentrated within a factor of 1.2, none spans more than one of 10.
    tenths = [sizes[20 * tenth] for tenth in range(10)] + [sizes[-1]]
    assert all(1.2 < high / low < 10 for low, high in itertools.pairwise(tenths))


@pytest.mark.parametrize(
    "space", [search_spaces.load(name).space for name in search_spaces.NAMES], ids=search_spaces.NAMES
)
def test_the_tpe_sampler_accepts_the_space_without_warnings(space):
    # Warnings are errors in this suite.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=0, multivariate=True, group=True, n_startup_trials=5)
    study = make_study((32, 64, 1), sampler)
    for _ in range(12):
        trial = study.ask()
        config = model(space(trial), (32, 64, 1))
        study.tell(trial, [1 / config.num_params, config.num_params])
    assert len({trial.values[1] for trial in study.trials}) > 6


def test_small_models_with_and_without_a_stem_have_few_parameters():
    study = make_study((32, 64, 1))
    configs = [model(small.space(study.ask()), (32, 64, 1)) for _ in range(100)]
    assert {(config.stem, config.bidirectional) for config in configs} == {
        (stem, both) for stem in ("none", "conv") for both in (False, True)
    }
    counts = sorted(config.num_params for config in configs)
    assert 100 < counts[0] < 1_000 < counts[50] < counts[80] < 10_000


@pytest.mark.parametrize("frame", FRAMES[:3], ids=str)
def test_formats_are_compared_at_equal_numbers_of_weights(frame):
    firsts = [model(values, frame) for values in search_spaces.load("formats").first(frame, None)]
    assert {config.format for config in firsts} | {"block-diagonal"} == set(FORMATS)
    assert {config.recurrent_format for config in firsts} == set(FORMATS)
    for config in firsts:
        # The next rank has more; ranks of 1 of a low-rank matrix may have more already.
        assert config.input_matrix.num_params <= 1000 or config.ranks == "1"
        assert config.recurrent_matrix.num_params <= 1000
    assert min(config.recurrent_matrix.num_params for config in firsts) > 500


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_the_first_small_models_differ_and_need_no_stem_where_the_frame_has_no_room(frame):
    models = first_models(small, frame)
    assert len({str(values) for values in models}) == len(models) - (min(frame[:2]) < 4) * len(models) // 2
    assert any(values["stem"] == "conv" for values in models) == (min(frame[:2]) >= 4)
    assert all(values["shift"] < min(frame[:2]) for values in models)


def test_an_unknown_space_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'no'.*small, shapes, ranks, formats, or your own.*package\.module:function"):
        search_spaces.load("no")


OWN = "def tiny(trial):\n    return {'hidden_modes': f\"{trial.suggest_int('h', 2, 8)}x2\"}\n"


def test_a_function_in_the_current_directory_is_a_space(own):
    own("mine/tiny_spaces", OWN)
    own("mine/led", OWN + "def baselines(frame):\n    return [{'hidden_modes': f'{frame[0]}x2'}]\n")
    found = search_spaces.load("mine.tiny_spaces:tiny")
    assert found.space(optuna.trial.FixedTrial({"h": 5})) == {"hidden_modes": "5x2"}
    assert found.first((4, 6, 1), None) == []
    assert search_spaces.load("mine.led:tiny").first((4, 6, 1), {}) == [{"hidden_modes": "4x2"}]


def test_the_example_in_the_documentation_works(own):
    lines = search_spaces.__doc__.split("`--space lips:both_ways`:")[1].splitlines()[1:]
    example = itertools.takewhile(lambda line: not line or line.startswith("    "), lines)
    own("lips", "\n".join(line[4:] for line in example))
    found, study = search_spaces.load("lips:both_ways"), make_study((32, 64, 1))
    points = [found.space(study.ask()) for _ in range(20)]
    assert {model(values, (32, 64, 1)).bidirectional for values in points} == {True, False}
    assert found.first((32, 64, 1), {}) == shapes.baselines((32, 64, 1))


@pytest.mark.parametrize("frame", FRAMES, ids=str)
@pytest.mark.parametrize("kind", ["neither", "stem", "mirrored", "stem and mirrored"])
def test_small_models_follow_what_was_found_about_the_data(frame, kind):
    question = small.first(frame, {})
    assert question.teaches
    assert all(values["flip"] == ("mirrored" in name) for name, values in question.models.items())
    if kind not in question.models:
        assert min(frame[:2]) < 4
        return
    answers = {"kind": kind, "teaching": "no"}
    study = make_study(frame)
    study.set_user_attr("answers", answers)
    study.set_user_attr("streamable", True)
    points = [*first_models(small, frame, answers), *(small.space(study.ask()) for _ in range(20))]
    assert {values["flip"] for values in points} == {"mirrored" in kind}
    assert {values["stem"] for values in points} == {"conv" if "stem" in kind else "none"}
    assert not any(values["bidirectional"] for values in points[-20:])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere:space", "'nowhere:space': there is no module nowhere in "),
        ("mine.nowhere:space", "there is no module mine.nowhere in "),
        ("mine:space", "'space' in mine does not exist; give package.module:function"),
        ("mine:", "'' in mine does not exist"),
        ("mine:number", "'number' in mine is not a function but 3"),
        (":space", "importing  fails with ValueError: Empty module name"),
        ("broken:space", "importing broken fails with ZeroDivisionError: division by zero; fix it first"),
        ("needy:space", "importing needy fails with ModuleNotFoundError: No module named 'absent_package'"),
    ],
)
def test_a_space_that_cannot_be_loaded_is_refused_with_a_hint(own, name, words):
    own("mine", "number = 3\n")
    own("broken", "1 / 0\n")
    own("needy", "import absent_package\n")
    with pytest.raises(ValueError, match=r"^search space '[^']+': ") as refused:
        search_spaces.load(name)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_space_in_the_current_directory_is_also_found_by_scripts(own, tmp_path):
    """With `python pipelines/sweep.py`, the directory of the script is on sys.path, not the current one."""
    own("mine_of_script", OWN)
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    code = f"import sys\nsys.path.append({str(ROOT)!r})\nimport search_spaces\n"
    script.write_text(code + "print(search_spaces.load('mine_of_script:tiny').space.__name__)\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "tiny"

"""ttrnn/portable/c.py: the C code gives what the model gives, in int8 bit for bit what ttrnn/integer.py gives."""

import itertools
import shutil
import subprocess
from importlib import resources

import numpy as np
import pytest

from tests.ttrnn.test_export_onnx import CASES, clips, make
from ttrnn.portable.c import c_files
from ttrnn.portable.c_export import C_FLAGS, compiled, export_c, outputs
from ttrnn.portable.c_tables import state_bytes
from ttrnn.portable.rounding import integer_model
from ttrnn.portable.weights import ModelWeights

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
SANITIZED = (*STRICT, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
STEM = {"stem": "conv", "in_modes": "2x2x16", "differences": "extra", "pooling": "attention"}
FORMS = ("float32", "int8")
# Each piece of C code at least once, and each format.
C_CASES = (
    "gru, dense recurrent",
    "rnn, tt recurrent",
    "pooling attention",
    "two layers of an lstm, tt recurrent, mean",
    "differences, two layers",
    "differences only",
    "dense input",
    *(case for case in CASES if case.startswith("format ")),
    "grey, no mean, rank 1",
    "ranks as high as they go",
    "several labels",
    "stem",
    "stem, frames alone",
    "stem, differences only, grey",
)
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def weights_of(model, form, frames):
    return ModelWeights.of(model) if form == "float32" else integer_model(model, list(frames.numpy()))


def streamed(model, clip):
    stream = model.stream()
    return np.stack([stream.push(frame).numpy() for frame in clip])


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """By case and form: weights, and the command that runs them. One program has all models, each with a prefix."""
    folder, found, sources = tmp_path_factory.mktemp("c"), {}, ["main.c"]
    check = (resources.files("ttrnn.portable") / "c_source" / "check.c").read_text()
    for number, (case, form) in enumerate(itertools.product(C_CASES, FORMS)):
        model, prefix = make(**CASES[case]), f"m{number}"
        weights = weights_of(model, form, clips(model, 2, 5))
        found[case, form] = weights, [folder / "check", str(number)]
        own = check.replace("ttrnn_", f"{prefix}_").replace("TTRNN_", f"{prefix.upper()}_")
        own = own.replace("main(void)", f"{prefix}_main(void)").replace("model.h", f"{prefix}_model.c")
        files = c_files(weights, prefix=prefix)
        (folder / f"{prefix}_model.h").write_text(files["model.h"])
        (folder / f"{prefix}_model.c").write_text(files["model.c"].replace("model.h", f"{prefix}_model.h"))
        (folder / f"{prefix}_check.c").write_text(own)
        sources.append(f"{prefix}_check.c")
    names = [f"m{number}_main" for number in range(len(found))]
    (folder / "main.c").write_text(
        "#include <stdlib.h>\n"
        + "".join(f"int {name}(void);\n" for name in names)
        + f"static int (*const mains[])(void) = {{{', '.join(names)}}};\n"
        + "int main(int count, char **words)\n{\n    return count == 2 ? mains[atoi(words[1])]() : 2;\n}\n"
    )
    subprocess.run(["gcc", *SANITIZED, "-o", "check", *sources, "-lm"], cwd=folder, check=True)
    return found


@needs_gcc
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", C_CASES)
def test_frame_by_frame_the_code_gives_what_the_model_gives(case, form, programs):
    model = make(**CASES[case])
    frames = clips(model, 2, 5)
    weights, command = programs[case, form]
    for clip, (logits, scores) in zip(frames, outputs(command, weights, list(frames.numpy())), strict=True):
        assert not logits[0].any()
        assert not scores[0].any()
        if form == "float32":
            np.testing.assert_allclose(scores[1:], streamed(model, clip), rtol=0, atol=1e-5)
        else:
            expected_logits, expected_scores = weights(clip.numpy())
            np.testing.assert_array_equal(logits, expected_logits)
            np.testing.assert_array_equal(scores, expected_scores)
            # Of weights rounded to 7 bits.
            np.testing.assert_allclose(scores[1:] / 32768, streamed(model, clip), rtol=0, atol=0.02)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("form", ["float32", "int8"])
def test_compilers_have_nothing_to_say_and_the_state_has_the_size_that_the_header_names(compiler, form, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    variants = [{"cell": cell, **extra} for cell, extra in (("rnn", STEM), ("gru", {}), ("lstm", {"pooling": "max"}))]
    for number, changes in enumerate(variants):
        model = make(**changes)
        weights = weights_of(model, form, clips(model, 1, 3))
        events = {"window": number + 1, "hop": 1, "thresholds": {}}
        for name, text in c_files(weights, prefix=f"m{number}", events=events).items():
            (tmp_path / name.replace("model", f"model_{number}")).write_text(
                text.replace("model.h", f"model_{number}.h")
            )
        size = f"\ntypedef char size[sizeof(m{number}_state) == {state_bytes(weights)} ? 1 : -1];\n"
        with open(tmp_path / "main.c", "a") as file:
            file.write(size)
        assert f"a state of {state_bytes(weights):,} bytes" in (tmp_path / f"model_{number}.h").read_text()
        sources = [f"model_{number}.c", "main.c"]
        subprocess.run([compiler, *STRICT, "-O1", "-fsyntax-only", *sources], cwd=tmp_path, check=True)


@needs_gcc
def test_models_of_several_prefixes_share_a_program_and_nothing_writable_is_global(tmp_path):
    for number in range(2):
        weights = ModelWeights.of(make())
        for name, text in c_files(weights, prefix=f"m{number}").items():
            (tmp_path / name.replace("model", f"m{number}")).write_text(text.replace("model.h", f"m{number}.h"))
    subprocess.run(["gcc", *STRICT, "-fno-pie", "-c", "m0.c", "m1.c"], cwd=tmp_path, check=True)
    for number in range(2):
        symbols = subprocess.run(
            ["nm", f"m{number}.o"], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout
        kinds = {line.split()[-2] for line in symbols.splitlines()}
        # Functions, constants, and what the C library gives.
        assert kinds <= set("TtRrU"), symbols
        assert all(name in symbols for name in (f"m{number}_line", f"m{number}_scores"))


@needs_gcc
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_int8_holds_at_the_bounds_for_thousands_of_frames(pooling, tmp_path):
    model = make(pooling=pooling, cell="lstm", differences="extra", width=4, height=3, in_modes="6x6",
                 hidden_modes="2x2", ranks="2")  # fmt: skip
    # Calibrated on what shows little, so that ranges are exceeded.
    weights = integer_model(model, [np.full((2, 3, 4, 3), 128, np.uint8)])
    extremes = np.zeros((3_000, 3, 4, 3), np.uint8)
    extremes[1_000:2_000] = 255
    extremes[2_000::2] = 255
    program = compiled(weights, tmp_path, *SANITIZED, "-O1", compiler="gcc")
    ((logits, scores),) = outputs(program, weights, [extremes])
    expected = weights(extremes)
    np.testing.assert_array_equal(logits, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


@needs_gcc
def test_main_prints_labels_and_says_if_a_frame_is_cut_off(tmp_path):
    model = make(**STEM)
    weights = ModelWeights.of(model)
    for name, text in c_files(weights).items():
        (tmp_path / name).write_text(text)
    subprocess.run(["make", "-s", "CC=gcc"], cwd=tmp_path, check=True)
    frames = clips(model, 1, 3)[0]

    def run(data):
        return subprocess.run([tmp_path / "model"], input=data, capture_output=True, check=False)

    done = run(frames.numpy().tobytes())
    assert (done.returncode, done.stderr) == (0, b"")
    scores = streamed(model, frames)
    labels = [model.config.classes[number] for number in scores.argmax(1)]
    wanted = [f"{label} {row.max():.4f}" for label, row in zip(labels, scores, strict=True)]
    assert done.stdout.decode().splitlines() == wanted
    assert run(b"").returncode == 0
    cut = run(frames.numpy().tobytes()[:-1])
    assert (cut.returncode, cut.stdout.decode().splitlines()) == (1, wanted[:2])
    assert cut.stderr == b"the last frame has 143 bytes, not 144\n"


@needs_gcc
def test_export_keeps_nothing_that_differs_and_says_what_was_compared(tmp_path, monkeypatch):
    model = make()
    frames = list(clips(model, 2, 4).numpy())
    result = export_c(model, tmp_path / "c", "int8", frames, frames)
    assert result["compiled"]
    assert 0 < result["difference"] < 0.02
    assert "on 8 frames; bit for bit those of ttrnn.integer" in (tmp_path / "c" / "model.h").read_text()
    assert {file.name for file in (tmp_path / "c").iterdir()} == {
        "model.h",
        "model.c",
        "main.c",
        "Makefile",
        "sketch.ino",
    }
    with monkeypatch.context() as patch:
        patch.setattr("ttrnn.portable.c_export.outputs", shifted)
        for dtype, message in (
            ("float32", "differ from the model's by .*: not kept"),
            ("int8", "bit for bit: not kept"),
        ):
            with pytest.raises(RuntimeError, match=message):
                export_c(model, tmp_path / dtype, dtype, frames, frames)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    result = export_c(model, tmp_path / "blind")
    assert (result["compiled"], result["difference"], result["num_frames"]) == (False, None, 0)
    assert "there was no cc" in (tmp_path / "blind" / "model.h").read_text()
    assert {file.name for file in tmp_path.iterdir()} == {"c", "blind"}


def shifted(*args):
    return [(logits + 1, scores + 1) for logits, scores in outputs(*args)]


def test_a_program_that_does_not_compile_is_one_line(tmp_path):
    with pytest.raises(RuntimeError, match=r"^cc can't compile the model: .*error"):
        compiled(ModelWeights.of(make()), tmp_path, *C_FLAGS, "-Dint=(")


def test_int8_needs_clips_and_streams():
    with pytest.raises(ValueError, match="int8 needs clips to find the ranges of values; got none"):
        integer_model(make(), [])
    with pytest.raises(ValueError, match="bidirectional models can't stream"):
        integer_model(make(bidirectional=True), [np.zeros((1, 8, 6, 3), np.uint8)])


def test_a_mode_that_does_not_fit_16_bits_is_refused():
    model = make(input="dense", width=160, height=140, hidden_modes="2")
    with pytest.raises(ValueError, match="has 67,200 values; C takes up to 65,535"):
        c_files(ModelWeights.of(model))


def test_class_names_are_strings_of_c():
    source = c_files(ModelWeights.of(make(classes=('say "a\\b"', "what??/", "ü1"))))["model.c"]
    assert '{"say \\042a\\134b\\042", "what\\077\\077/", "\\303\\2741"}' in source


def test_integer_tables_are_close_to_the_functions():
    from ttrnn.integer import _exponential, _sigmoid, _tangent

    x = np.arange(-20 * 65536, 20 * 65536, 997)
    for found, wanted in ((_tangent(x), np.tanh(x / 65536)), (_sigmoid(x), 1 / (1 + np.exp(-x / 65536)))):
        assert abs(found / 32768 - wanted).max() < 2e-4
        assert (np.diff(found) >= 0).all()
    powers = [_exponential(int(value)) / 32768 for value in abs(x)]
    np.testing.assert_allclose(powers, np.exp(-abs(x) / 65536), atol=1e-4)


def test_weights_are_rounded_row_by_row():
    model = make()
    integer = integer_model(model, list(clips(model, 1, 2).numpy()))
    for layer in integer.layers:
        for level in itertools.chain(layer.ih.levels, layer.hh.levels):
            assert (abs(level.weights.astype(int)).max((0, 2)) == 127).all()
            assert (level.multipliers < 1 << 31).all()

"""ttrnn/portable/js.py: the module gives what the model gives, in Node, and tells wrong frames."""

import json
import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.ttrnn.test_export_onnx import BOTH, CASES, clips, make
from ttrnn.portable import js
from ttrnn.portable.js import demo_page, export_js, javascript
from ttrnn.quantise import DTYPES, rounded

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no node on the PATH: apt-get install nodejs")
NAMES = [f"{case}, {dtype}" for case in CASES for dtype in DTYPES]
TINY: dict[str, Any] = {"width": 6, "height": 4, "in_modes": "4x18", "hidden_modes": "2x2", "classes": ("a", "b")}
# Pushes the frames of each folder's files and prints the probabilities.
ALL = """
import fs from "node:fs";
const found = {};
for (const name of fs.readdirSync(".").filter(name => name.endsWith(".mjs"))) {
  const model = await import(`${process.cwd()}/${name}`), all = fs.readFileSync(name.replace(".mjs", ".raw"));
  const size = model.width * model.height * model.channels, streams = [model.stream(), model.stream()];
  found[name] = streams.map(() => []);
  for (let i = 0; i < all.length; i += size) {
    streams.forEach((stream, n) => found[name][n].push(Object.values(stream.push(all.subarray(i, i + size)))));
    // The two streams are at different frames.
    if (i == 0) streams[1].reset();
  }
}
console.log(JSON.stringify(found));
"""


def node(code: str, *words: str, cwd: Path, stdin: bytes = b"") -> bytes:
    command = [str(NODE), "--input-type=module", "-e", code, *words]
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def expected(model: Any, frames: torch.Tensor) -> np.ndarray:
    """(T, C) by VideoClassifier.step."""
    state, rows = None, []
    for frame in frames:
        with torch.no_grad():
            logits, state = model.step(frame, state)
        rows.append(model.probabilities(logits).numpy())
    return np.array(rows)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[np.ndarray, list[Any]]]:
    """By the name of a case and type: what the model gives, and what two streams of its module give in one process."""
    folder, wanted = tmp_path_factory.mktemp("modules"), {}
    for number, name in enumerate(NAMES):
        case, dtype = name.rsplit(", ", 1)
        model = make(**CASES[case])
        model = model if dtype == "float32" else rounded(model, dtype)
        frames = clips(model, 1, 6)[0]
        (folder / f"{number}.mjs").write_text(javascript(model, dtype), encoding="utf-8")
        (folder / f"{number}.raw").write_bytes(frames.numpy().tobytes())
        wanted[name] = expected(model, frames), expected(model, frames[1:])
    given = json.loads(node(ALL, cwd=folder))
    return {name: (wanted[name], given[f"{number}.mjs"]) for number, name in enumerate(NAMES)}


@needs_node
@pytest.mark.parametrize("name", NAMES)
def test_the_module_gives_what_step_gives(name: str, found: dict[str, tuple[Any, list[Any]]]) -> None:
    (whole, from_second), (first, second) = found[name]
    np.testing.assert_allclose(first, whole, atol=2e-6)
    np.testing.assert_allclose(second[1:], from_second, atol=2e-6)


@needs_node
def test_it_is_written_with_its_difference_and_scores_have_the_names_of_classes(tmp_path: Path, caplog: Any) -> None:
    names = ("__proto__", 'a "quoted" </script> \\', "10", "2", "springen ü \u2028")
    model = make(**TINY | {"classes": names})
    with caplog.at_level(logging.INFO):
        difference = export_js(model, tmp_path / "model.js")
    assert difference is not None
    assert 0 < difference < 1e-6
    size = (tmp_path / "model.js").stat().st_size
    assert f"model.js: {size} bytes, probabilities within {difference:.1e} of the model's on 12 frames" in caplog.text
    assert "<" not in (tmp_path / "model.js").read_text(encoding="utf-8").splitlines()[1]
    (tmp_path / "package.json").write_text('{"type": "module"}')
    code = """const model = await import(`${process.cwd()}/model.js`), frame = new Uint8Array(72).fill(9);
    const scores = model.push(frame), again = model.push(frame);
    model.reset();
    const anew = model.push(frame), own = model.classes.map(name => Object.hasOwn(scores, name));
    console.log(JSON.stringify([model.classes, own, model.width, model.height, model.channels,
        anew["2"] == scores["2"], again["2"] == scores["2"]]));"""
    classes, own, *others = json.loads(node(code, cwd=tmp_path))
    assert classes == list(names)
    assert own == [True] * 5
    assert others == [6, 4, 3, True, False]


@needs_node
def test_a_module_that_differs_or_does_not_run_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, code = make(**TINY), js._code
    monkeypatch.setattr(js, "_code", lambda name: code(name).replace("Math.tanh", "Math.atan"))
    with pytest.raises(RuntimeError, match=r"differ from the model's by .*not kept"):
        export_js(model, tmp_path / "model.js")
    monkeypatch.setattr(js, "_code", lambda name: "missing();")
    with pytest.raises(RuntimeError, match="node can't run the JavaScript module: ReferenceError: missing is not"):
        export_js(model, tmp_path / "model.js")
    assert list(tmp_path.iterdir()) == []


def test_without_node_it_is_written_and_said_not_to_be_compared(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert export_js(make(**TINY), tmp_path / "model.js") is None
    assert "no node on the PATH: model.js is written, but was not compared with the model" in caplog.text
    assert (tmp_path / "model.js").exists()


def test_a_model_that_cannot_stream_or_is_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bidirectional models can't stream"):
        export_js(make(**BOTH["both directions"]), tmp_path / "model.js")
    with pytest.raises(ValueError, match=r"2,\d{3},\d{3} parameters, a JavaScript module takes 2,000,000"):
        export_js(make(width=64, height=32, input="dense", hidden_modes="110"), tmp_path / "model.js")
    assert list(tmp_path.iterdir()) == []


def test_five_thousand_parameters_take_less_than_30_kilobytes() -> None:
    model = make(width=160, height=120, in_modes="8x20x20x18", hidden_modes="4x4x4x4", recurrent_ranks="1", ranks="3",
                 classes=tuple(f"class {n}" for n in range(8)))  # fmt: skip
    assert 5000 <= model.num_params <= 5500
    assert len(javascript(model).encode()) < 6 * model.num_params
    assert len(javascript(model).encode()) * 5000 / model.num_params < 30_000
    assert len(javascript(rounded(model, "int8"), "int8").encode()) < 20_000


def test_the_example_page_has_the_code_of_today() -> None:
    page = (Path(__file__).parents[3] / "docs" / "examples" / "stripes.html").read_text(encoding="utf-8")
    weights = re.search(r"^// A ttrnn .*\nconst config=(.*);\nconst text=.*\n", page, re.MULTILINE)
    assert weights is not None
    parts = [name for name in js._FILES if json.loads(weights[1]).get(name, True)]
    # To repair: write this text to the page.
    assert page == demo_page(weights[0] + "".join(map(js._code, parts)))


SIZES = [(24, 16), (48, 32), (72, 48), (96, 64), (50, 37), (64, 48), (640, 480), (100, 16), (24, 33), (48, 64),
         (12, 8), (13, 9), (48, 7), (7, 48), (1, 1)]  # fmt: skip


@needs_node
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
def test_pictures_of_any_size_become_frames_as_in_preprocessing(fit: str, channels: int, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    from pipelines.video.fitting import resize

    model = make(width=24, height=16, channels=channels, in_modes=f"16x{24 * channels}", hidden_modes="2x2",
                 mean=(99.0,), sampling={"fit": fit})  # fmt: skip
    (tmp_path / "model.mjs").write_text(f"{javascript(model)}export {{ resized }};", encoding="utf-8")
    code = """
    import fs from "node:fs";
    const { resized } = await import(`${process.cwd()}/model.mjs`), all = fs.readFileSync(0);
    let i = 0;
    process.stdout.write(Buffer.concat(JSON.parse(process.argv[1]).map(([width, height]) => {
      const data = new Uint8ClampedArray(all.subarray(i, i += width * height * 4));
      return Buffer.from(resized({ data, width, height }));
    })));"""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, width, 4), dtype=np.uint8) for width, height in SIZES]
    out = node(code, json.dumps(SIZES), cwd=tmp_path, stdin=b"".join(image.tobytes() for image in images))
    found = np.frombuffer(out, np.uint8).reshape(len(SIZES), 16, 24, channels)
    for (width, height), image, frame in zip(SIZES, images, found, strict=True):
        wanted = np.empty_like(frame)
        resize(np.ascontiguousarray(image[..., :3]), fit, wanted)
        difference = np.abs(wanted.astype(int) - frame)
        # OpenCV enlarges in fixed point; otherwise it may round a half that is none to the other side.
        assert difference.max() <= 1, (width, height)
        assert (difference > 0).mean() < (0.03 if width >= 24 and height >= 16 else 0.25), (width, height)


@needs_node
def test_wrong_frames_are_told_in_one_line_and_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.mjs").write_text(javascript(make(**TINY)), encoding="utf-8")
    code = """
    const model = await import(`${process.cwd()}/model.mjs`), frame = new Uint8Array(72).fill(50);
    const wrong = [new Uint8Array(96), new Float32Array(72), Array(72).fill(0), undefined, null, "text",
        new Int8Array(72), new DataView(new ArrayBuffer(72)), { data: new Uint8ClampedArray(96), width: 5, height: 4 },
        { data: new Uint8ClampedArray(0), width: 0, height: 0 }];
    const told = wrong.map(value => {
        try { return model.push(value); } catch (error) { return `${error.name}: ${error.message}`; }
    });
    const image = { data: new Uint8ClampedArray(96).fill(50), width: 6, height: 4 };
    const all = [frame, image, Buffer.from(frame)].map(value => (model.reset(), model.push(value).a));
    console.log(JSON.stringify([told, all[0] == all[1] && all[0] == all[2]]));"""
    told, are_equal = json.loads(node(code, cwd=tmp_path))
    start = "Error: push takes 4 x 6 x 3 = 72 bytes or an ImageData, got "
    assert all(isinstance(text, str) and text.startswith(start) and "\n" not in text for text in told)
    assert [text.removeprefix(start) for text in told[:1]] == ["96 bytes"]
    assert told[8].endswith("got 5 x 4 with 96 bytes")
    assert are_equal


# Scores of frames 0, 1, ..; the events by (start, detected, end, score), and the frames after which they are over.
EVENTS: list[tuple[list[float], list[tuple[int, int, int, float]], list[int]]] = [
    ([0, 0, 0, 0.5, 0, 0, 0, 0, 0, 0], [(0, 3, 4, 0.5)], [8]),
    ([0.9, 0.9, 0, 0, 0, 0, 0, 0], [], []),
    ([0.9, 0.9, 0.7, 0, 0, 0, 0, 0], [(0, 2, 3, 0.7)], [6]),
    ([0, 0, 0, 0.6, 0.9, 0.7, 0, 0, 0, 0], [(0, 3, 6, 0.9)], [10]),
    ([0, 0, 0, 0.6, 0, 0, 0, 0.8], [(0, 3, 8, 0.8)], [8]),
    ([0, 0, 0, 0.6, 0, 0, 0, 0, 0.8], [(0, 3, 4, 0.6), (6, 8, 9, 0.8)], [8, 9]),
]


@needs_node
@pytest.mark.parametrize(("scores", "events", "ends"), EVENTS)
def test_events_are_those_of_the_definition(scores: Any, events: Any, ends: Any, tmp_path: Path) -> None:
    rule = {"window": 4, "hop": 2, "thresholds": {"a": 0.5}}
    told = "Stream.prototype.take = frame => ({ a: frame[0] / 100, b: 1 });"
    (tmp_path / "model.mjs").write_text(javascript(make(**TINY), events=rule) + told, encoding="utf-8")
    code = """
    const watch = (await import(`${process.cwd()}/model.mjs`)).watch(), started = [], over = [];
    const scores = JSON.parse(process.argv[1]), at = t => event => over.push({ ...event, t });
    scores.forEach((score, t) => {
      const told = watch.push(new Uint8Array(72).fill(100 * score));
      started.push(...told.started);
      told.over.forEach(at(t));
    });
    watch.finish().forEach(at(scores.length));
    console.log(JSON.stringify([started, over]));"""
    started, over = json.loads(node(code, json.dumps(scores), cwd=tmp_path))
    found = [(event["start"], event["detected"], event["end"], pytest.approx(event["score"])) for event in over]
    assert events == found
    assert [event["t"] for event in over] == ends
    assert [(event["label"], event["start"], event["detected"]) for event in started] == [
        ("a", start, detected) for start, detected, _, _ in events
    ]


@needs_node
@pytest.mark.parametrize("case", ["gru, tt recurrent", "differences, two layers", "stem", "stem, frames alone"])
def test_a_watch_gives_the_scores_of_the_clip_of_its_oldest_state(case: str, tmp_path: Path) -> None:
    model = make(**CASES[case])
    frames = clips(model, 1, 11)[0]
    rule = {"window": 6, "hop": 2, "thresholds": {}}
    (tmp_path / "model.mjs").write_text(javascript(model, events=rule), encoding="utf-8")
    code = """
    import fs from "node:fs";
    const watch = (await import(`${process.cwd()}/model.mjs`)).watch(), all = fs.readFileSync(0), scores = [];
    for (let i = 0; i < all.length; i += 144) scores.push(Object.values(watch.push(all.subarray(i, i + 144)).scores));
    console.log(JSON.stringify(scores));"""
    found = json.loads(node(code, cwd=tmp_path, stdin=frames.numpy().tobytes()))
    firsts = [0, 0, 0, 0, 0, 0, 2, 2, 4, 4, 6]
    wanted = [model.predict(frames[first : t + 1]).numpy() for t, first in enumerate(firsts)]
    np.testing.assert_allclose(found, wanted, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_module_holds_the_numbers_of_the_format_and_not_those_of_the_cores(dtype: str) -> None:
    shape = TINY | {"in_modes": "4x6x3", "hidden_modes": "2x2x2"}
    tiny, model = (make(**shape, format="cp", ranks=rank, recurrent_ranks="1") for rank in ("1", "30"))
    added = model.num_params - tiny.num_params
    assert sum(core.numel() for core in model.rnn.ih_l0.cores) > 5 * added
    # Numbers of at most 3 bytes in base 85, and the digits of larger shapes.
    assert len(javascript(model, dtype)) - len(javascript(tiny, dtype)) < 3.75 * added + 50

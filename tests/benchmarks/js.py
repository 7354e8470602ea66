"""Measure models as JavaScript modules on one core: time per frame in Node and in Chromium, and sizes of the files.

    python -m tests.benchmarks.js --out docs/results/js.csv        two minutes
    python -m tests.benchmarks.js --rounds 3

TT-GRUs with a TT recurrent matrix of about 1,000, 3,000, 5,000 and 10,000 parameters and the paper's UCF11 GRU, for
frames of 160x120 RGB and of 64x32 grey. A round pushes frames for a tenth of a second. A picture is an ImageData of
640x480, which the module fits to the size of the frame first; the table has its median. Weights of any type are decoded
once, so the time of a frame is the same.
"""

import contextlib
import csv
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from pipelines.core import command
from ttrnn.files import atomic_write
from ttrnn.model import ModelConfig, VideoClassifier
from ttrnn.portable.js import javascript
from ttrnn.quantise import DTYPES, rounded

__all__ = ["JsOptions", "measure_js", "table"]

log = logging.getLogger("tests.benchmarks")

FRAMES: dict[str, dict[str, Any]] = {
    "160x120x3": {"width": 160, "height": 120, "channels": 3},
    "64x32x1": {"width": 64, "height": 32, "channels": 1},
}
# hidden modes, ranks, recurrent ranks
SIZES = {
    "160x120x3": [("2x2x2x2", "2", "4"), ("4x4x4x2", "2", "3"), ("4x4x2x2", "6", "3"), ("4x4x4x2", "8", "4")],
    "64x32x1": [("2x2x2x2", "4", "3"), ("4x4x4x2", "3", "3"), ("4x4x2x2", "8", "4"), ("4x4x4x4", "8", "4")],
}
PAPER = {"in_modes": "8x20x20x18", "hidden_modes": "4x4x4x4", "ranks": "4"}
# us a frame of each round, for frames and for pictures.
MEASURE = """(model, rounds) => {
  const random = size => Uint8ClampedArray.from({ length: size }, () => Math.random() * 256);
  const frames = Array.from({ length: 8 }, () => random(model.width * model.height * model.channels));
  const picture = { data: random(640 * 480 * 4), width: 640, height: 480 };
  const round = image => {
    let count = 0, start = performance.now(), passed = 0;
    for (; passed < 100; passed = performance.now() - start) for (let i = 0; i < 20; i++) model.push(image(count++));
    return passed / count * 1000;
  };
  const times = image => {
    for (let i = 0; i < 3; i++) round(image);
    return Array.from({ length: rounds }, () => round(image));
  };
  return [times(i => frames[i % 8]), times(() => picture)];
}"""

Measure = Callable[[str], list[list[float]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class JsOptions:
    """Time per frame in Node and in Chromium, and size, of models as JavaScript modules, on one core."""

    rounds: int = 20
    """number of rounds of a tenth of a second"""
    out: str = "bench/js.csv"
    """CSV file to write the rows to"""


def models() -> Iterator[tuple[str, VideoClassifier]]:
    """Name of the frame size, and a model."""
    classes = tuple(f"class {number}" for number in range(10))
    for frame, size in FRAMES.items():
        for hidden_modes, ranks, recurrent_ranks in SIZES[frame]:
            given = {"hidden_modes": hidden_modes, "ranks": ranks, "recurrent_ranks": recurrent_ranks}
            yield frame, VideoClassifier(ModelConfig(classes=classes, **size, **given)).eval()
    for recurrent_ranks in ("4", "none"):
        config = ModelConfig(classes=classes, **FRAMES["160x120x3"], **PAPER, recurrent_ranks=recurrent_ranks)
        yield "160x120x3", VideoClassifier(config).eval()


@contextlib.contextmanager
def node(rounds: int) -> Iterator[Measure]:
    """Measures a module in a Node process of its own."""
    with tempfile.TemporaryDirectory() as folder:

        def measure(source: str) -> list[list[float]]:
            Path(folder, "model.mjs").write_text(source, encoding="utf-8")
            code = f'const model = await import("{folder}/model.mjs");'
            code += f"console.log(JSON.stringify(({MEASURE})(model, {rounds})));"
            words = ["node", "--input-type=module", "-e", code]
            found: list[list[float]] = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
            return found

        yield measure


@contextlib.contextmanager
def chromium(rounds: int) -> Iterator[Measure]:
    """Measures a module in a page of its own."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)

        def measure(source: str) -> list[list[float]]:
            page = browser.new_page()
            given = "{ width, height, channels, push }"
            page.set_content(f'<script type="module">{source}window.model = {given};</script>')
            page.wait_for_function("window.model")
            found: list[list[float]] = page.evaluate(f"() => ({MEASURE})(window.model, {rounds})")
            page.close()
            return found

        yield measure
        browser.close()


def measure_js(options: JsOptions) -> dict[str, Any]:
    """Returns a row for each model and engine."""
    # Helper threads of the engines and those of Chromium share the core too.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.manual_seed(0)
    rows = []
    with node(options.rounds) as in_node, chromium(options.rounds) as in_chromium:
        for frame, model in models():
            sources = {dtype: javascript(rounded(model, dtype), dtype) for dtype in DTYPES}
            for engine, measure in {"node": in_node, "chromium": in_chromium}.items():
                frames, pictures = measure(sources["float32"])
                rows.append({
                    "frame": frame, "num_params": model.num_params, "engine": engine, "us_a_frame": round(min(frames)),
                    "median_us": round(statistics.median(frames)), "slowest_us": round(max(frames)),
                    "median_us_picture": round(statistics.median(pictures)),
                    **{f"{dtype}_bytes": len(source.encode()) for dtype, source in sources.items()}})  # fmt: skip
                log.info("%s, %d parameters, %s: %d us", frame, model.num_params, engine, rows[-1]["us_a_frame"])
    write_rows(Path(options.out), rows)
    return {"rows": rows}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV, with the date of today."""
    about = {"date": date.today().isoformat(), "command": "python -m tests.benchmarks.js"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, [*rows[0], *about], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **about} for row in rows)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a line for each model; rows are those of the CSV."""
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    names = ("frame", "parameters", *(f"us a frame, {engine}" for engine in engines),
             *(f"of 640x480, {engine}" for engine in engines), "file, kB", "int8, kB")  # fmt: skip
    lines = [f"| {' | '.join(names)} |", "|---|" + "---:|" * (len(names) - 1)]
    for frame, num_params in dict.fromkeys((row["frame"], row["num_params"]) for row in rows):
        own = [row for row in rows if (row["frame"], row["num_params"]) == (frame, num_params)]
        cells = [frame, f"{int(num_params):,}"]
        cells += [f"{int(row['us_a_frame']):,} ({int(row['median_us']):,})" for row in own]
        cells += [f"{int(row['median_us_picture']):,}" for row in own]
        cells += [f"{int(own[0][f'{dtype}_bytes']) / 1000:,.1f}" for dtype in ("float32", "int8")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(command.run(JsOptions, measure_js, lambda result: table(result["rows"])))

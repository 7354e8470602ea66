"""docs/examples: they run unchanged, without ttrnn, and give the scores of the model."""

import functools
import http.server
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ttrnn
from tests.ttrnn.test_export_onnx import make, needs_onnx
from tests.videos import numbered, write_video
from ttrnn.export import export_onnx_step
from ttrnn.files import atomic_directory

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RUNTIME = "onnxruntime-web@1.30.0"
NEEDED = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
SIZE: dict[str, Any] = {
    "width": 24,
    "height": 16,
    "in_modes": "16x12x6",
    "pooling": "attention",
    "differences": "extra",
}


@needs_onnx
@pytest.mark.parametrize("channels", [3, 1])
def test_the_python_example_gives_the_scores_of_the_model_for_a_video(channels: int, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    grey = {"channels": 1, "in_modes": "16x6x4", "mean": (99.0,)} if channels == 1 else {}
    model = make(**SIZE | grey)
    export_onnx_step(model, tmp_path / "step.onnx")
    # A lossless codec, so that both decode the same frames.
    video = write_video(tmp_path / "clip.mkv", numbered(12), codec="FFV1")
    command = [sys.executable, str(EXAMPLES / "onnx_python.py"), "step.onnx", video]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    stream, capture, expected = model.stream(), cv2.VideoCapture(str(video)), []
    while (read := capture.read())[0]:
        code = cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGR2GRAY
        frame = cv2.cvtColor(cv2.resize(read[1], (24, 16), interpolation=cv2.INTER_AREA), code)
        scores = stream.push(frame.reshape(16, 24, channels))
        expected.append(f"{model.config.classes[int(scores.argmax())]} {scores.max():.3f}")
    assert len(expected) == 12
    assert result.stdout.splitlines() == expected


def onnxruntime_web() -> Path:
    """The files of the runtime from the npm registry, kept in a temporary directory; skips the test if unavailable."""
    folder = Path(tempfile.gettempdir()) / f"ttrnn-tests-{RUNTIME}"
    if folder.exists():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on the PATH: apt-get install npm")
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", RUNTIME, "--silent", "--pack-destination", temporary]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"npm could not fetch {RUNTIME}: {str(error.stderr or error).strip()[-200:]}")
        (packed,) = Path(temporary).glob("*.tgz")
        with tarfile.open(packed) as archive, atomic_directory(folder) as unfinished:
            for name in NEEDED:
                file = archive.extractfile(f"package/dist/{name}")
                assert file is not None
                (unfinished / name).write_bytes(file.read())
    return folder


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """The example in a browser with a simulated camera, served by this machine together with a model."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    shutil.copytree(onnxruntime_web(), tmp_path / "node_modules" / "onnxruntime-web" / "dist")
    shutil.copy(EXAMPLES / "onnx_web.html", tmp_path / "index.html")
    model = make(**SIZE)
    ttrnn.save(model, tmp_path / "model")
    export_onnx_step(model, tmp_path / "model" / "step.onnx")
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--use-fake-ui-for-media-stream",
             "--use-fake-device-for-media-stream"]  # fmt: skip
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_api.sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        opened = browser.new_page()
        opened.set_default_timeout(60_000)
        errors: list[str] = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto(f"http://localhost:{server.server_port}/index.html")
        yield opened, model
        browser.close()
        server.shutdown()
    assert errors == []


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Logs nothing."""


# Draws an image of known pixels and returns the scores after it.
PUSH = """async ([pixels, width, height]) => {
    const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
    context.putImageData(new ImageData(new Uint8ClampedArray(pixels), width, height), 0, 0);
    return await push(canvas);
}"""


@needs_onnx
def test_the_page_classifies_the_camera_and_gives_the_scores_of_the_model(page: Any) -> None:
    opened, model = page
    opened.wait_for_function("document.querySelector('pre').textContent.includes('%')")
    lines = opened.locator("pre").text_content().splitlines()
    assert [line.split("% ")[1] for line in lines] == list(model.config.classes)
    assert sum(float(line.split("%")[0]) for line in lines) == pytest.approx(100, abs=0.2)

    # Known frames from the start, with the camera off.
    opened.context.clear_permissions()
    opened.add_init_script("navigator.mediaDevices.getUserMedia = () => new Promise(() => {})")
    opened.reload()
    opened.wait_for_function("() => Boolean(window.push)")
    stream = model.stream()
    for frame in np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8):
        rgba = np.concatenate([frame, np.full((16, 24, 1), 255, np.uint8)], axis=2)
        scores = opened.evaluate(PUSH, [rgba.ravel().tolist(), 24, 16])
        torch.testing.assert_close(torch.tensor(scores), stream.push(frame), rtol=1e-4, atol=1e-5)


def test_the_examples_are_short() -> None:
    script = (EXAMPLES / "onnx_web.html").read_text().split('<script type="module">')[1]
    code = (EXAMPLES / "onnx_python.py").read_text().split("import onnxruntime\n")[1]
    for text in (script, code):
        assert (
            len([line for line in text.splitlines() if line.strip() and not line.strip().startswith(("#", "<"))]) <= 25
        )


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "first_steps.ipynb", "exec"), names)
    assert names["found"]["label"] in names["shards"]["classes"]
    assert names["gru"].input_params == 3232

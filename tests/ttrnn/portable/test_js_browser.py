"""ttrnn/portable/js.py in Chromium: the module under a strict policy, and the demo page from a file."""

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.data.demo_videos import CLASSES
from tests.ttrnn.portable.test_js import expected
from tests.ttrnn.test_export_onnx import CASES, clips, make
from tests.videos import numbered, write_video
from ttrnn.portable.js import demo_page, javascript

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class _Strict(http.server.SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", "default-src 'none'; script-src 'self'")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--use-fake-ui-for-media-stream",
             "--use-fake-device-for-media-stream"]  # fmt: skip
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


# Imported by the page itself: the policy refuses code that is evaluated.
PAGE = """import * as model from "./model.js";
document.title = JSON.stringify((await (await import("./frames.js")).default).map(values => {
    const frame = new Uint8ClampedArray(values);
    return Object.values(model.push(new ImageData(frame, model.width, model.height)));
}));
"""


def test_in_chromium_it_gives_what_step_gives_under_a_strict_policy(browser: Any, tmp_path: Path) -> None:
    model = make(**CASES["stem"])
    frames = clips(model, 1, 4)[0]
    rgba = np.concatenate([frames.numpy(), np.full((*frames.shape[:3], 1), 255, np.uint8)], axis=3)
    (tmp_path / "model.js").write_text(javascript(model), encoding="utf-8")
    (tmp_path / "page.js").write_text(PAGE)
    (tmp_path / "frames.js").write_text(f"export default {json.dumps(rgba.reshape(4, -1).tolist())};")
    (tmp_path / "index.html").write_text('<!doctype html><title></title><script type="module" src="page.js"></script>')
    handler = functools.partial(_Strict, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://localhost:{server.server_port}/index.html")
        page.wait_for_function("document.title != ''", timeout=20_000)
        found = json.loads(page.title())
        server.shutdown()
    np.testing.assert_allclose(found, expected(model, frames), atol=2e-6)


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """A page that shows no error and requests nothing but the file that is opened in it."""
    page, errors, requests = browser.new_page(), [], []
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    yield page
    own = [url for url in requests if not url.startswith("blob:")]
    page.close()
    assert (errors, len(own)) == ([], 1)


SEVERAL = "Number(document.getElementById('count').textContent) > 3"


def test_the_demo_page_works_from_a_file_with_clip_camera_and_video(opened: Any, tmp_path: Path) -> None:
    (tmp_path / "demo.html").write_text(demo_page(javascript(make(**CASES["several labels"]))), encoding="utf-8")
    opened.goto((tmp_path / "demo.html").as_uri())
    opened.wait_for_function(SEVERAL)
    assert "trained on something else" in opened.locator("#message").text_content()
    opened.click("#camera")
    opened.wait_for_function(f"{SEVERAL} && document.getElementById('picture').width == 640")
    assert opened.locator("#camera").get_attribute("aria-pressed") == "true"
    assert float(opened.locator("#time").text_content()) > 0
    names = [text.split("\n")[0] for text in opened.locator("#bars li").all_inner_texts()]
    assert names == list(make().config.classes)
    video = write_video(tmp_path / "clip.webm", numbered(30), codec="VP80")
    opened.set_input_files("#file input", video)
    opened.wait_for_function(f"{SEVERAL} && document.getElementById('picture').width == 48")
    (tmp_path / "text.webm").write_text("no video")
    opened.set_input_files("#file input", tmp_path / "text.webm")
    opened.wait_for_function("document.getElementById('message').textContent.startsWith('text.webm: ')")


def test_the_example_recognises_the_stripes_that_it_draws(opened: Any) -> None:
    opened.add_init_script("let seed = 1; Math.random = () => (seed = seed * 16807 % 2147483647) / 2147483647;")
    opened.goto((Path(__file__).parents[3] / "docs" / "examples" / "stripes.html").as_uri())
    opened.wait_for_function("document.getElementById('count').textContent == '12'")
    label = opened.locator("#label b").text_content()
    assert label in CLASSES
    assert opened.locator("#message").text_content() == f"Three sets of stripes; the truth is {label}."

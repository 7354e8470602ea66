"""report.html in headless Chromium: it opens without errors or requests, its controls work, names stay text."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.report.frontier_files import write_frontier
from pipelines.report.html import write_page
from pipelines.report.pareto_data import csv_tables
from tests.report.contents import HOSTILE, OF_FORMATS, full, older
from tests.sweeps import Evaluate, add_baselines, config, make_sweep

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Root cannot use the sandbox, and containers have little shared memory.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The contents of pareto.json with all values known."""
    return full(write_frontier(make_sweep(tmp_path_factory.mktemp("page") / "sweep"), Evaluate()))


@pytest.fixture(scope="module")
def file(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, data)
    return path


class Opened:
    """A page in the browser, with its errors and requests."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        settings = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", **context}
        self.context = browser.new_context(**settings)
        self.context.set_default_timeout(5000)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.errors.append(dialog.message), dialog.dismiss()))
        self.page.on("request", self._on_request)
        self.page.goto(path.as_uri())

    def _on_request(self, request: Any) -> None:
        # Downloads are created by the page itself.
        if not request.url.startswith("blob:file://"):
            self.requested.append(request.url)

    def position(self, trial: str, role: str = "g") -> tuple[float, float]:
        """Position of the mark of a trial in the plot, in pixels."""
        box = self.page.locator(f'#plot {role}[data-trial="{trial}"] .shape').first.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def selected(self) -> list[str]:
        """Headers of the table of selected trials."""
        return [text.split()[0] for text in self.page.locator("#selected thead button").all_inner_texts()]

    def background(self) -> str:
        return self.page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Opened]:
    opened = Opened(browser, file)
    yield opened
    assert opened.errors == []
    assert opened.requested == [file.as_uri()]
    opened.context.close()


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_page_opens_without_errors_or_network_and_fits(browser: Any, file: Path, width: int) -> None:
    opened = Opened(browser, file, viewport={"width": width, "height": 800}, color_scheme="dark")
    assert (opened.errors, opened.requested) == ([], [file.as_uri()])
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    for name in ("plot", "curves", "coordinates"):
        assert opened.page.locator(f"#{name} svg [role=option]").count() > 3
    opened.context.close()


def test_page_of_an_older_pareto_json_opens(browser: Any, data: dict[str, Any], tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", older(data))
    opened = Opened(browser, tmp_path / "report.html")
    assert opened.errors == []
    assert not opened.page.locator("#curves").is_visible()
    assert not opened.page.locator("#classes").is_visible()
    assert opened.page.locator("#plot .steps").count() == 1
    opened.context.close()


def test_baselines_have_a_line_of_their_own_and_no_command_to_export_them(browser: Any, tmp_path: Path) -> None:
    sweep = add_baselines(make_sweep(tmp_path / "sweep"), {"thumbnail-3000": (2_900, 0.99), "cnn-1000": (900, 0.2)})
    write_frontier(sweep, Evaluate())
    for width in (390, 1280):
        opened = Opened(browser, sweep / "report.html", viewport={"width": width, "height": 900})
        assert opened.errors == []
        assert opened.page.evaluate("document.documentElement.scrollWidth") == width
        assert opened.page.locator("#plot .steps").count() == 2
        assert opened.page.locator("#plot .steps.of-baseline").count() == 1
        assert "thumbnail-3000" in opened.selected()
        assert "thumbnail" not in opened.page.inner_text("#export")
        opened.page.locator('#legend button[data-role="baseline"]').click()
        assert opened.page.locator("#plot .steps.of-baseline").count() == 0
        opened.context.close()


def test_without_scripts_the_tables_are_there(browser: Any, file: Path) -> None:
    opened = Opened(browser, file, java_script_enabled=False)
    assert opened.page.locator("#frontier").is_visible()
    assert "pareto.png in the same directory" in opened.page.inner_text("body")
    assert not opened.page.locator("#plot").is_visible()
    opened.context.close()


def test_hovering_over_a_mark_shows_its_trial_in_all_figures(opened: Opened) -> None:
    assert not opened.page.locator("#tooltip").is_visible()
    opened.page.mouse.move(*opened.position("0002"))
    assert opened.page.inner_text("#tooltip").startswith("trial 0002, gru, tt input\nmodes 8x4x8x8")
    assert opened.page.locator('#curves .highlighted[data-trial="0002"]').count() == 1
    assert opened.page.locator('#coordinates .highlighted[data-trial="0002"]').count() == 1
    opened.page.mouse.move(5, 5)
    assert not opened.page.locator("#tooltip").is_visible()
    opened.page.locator('#frontier tr[data-trial="0003"]').hover()
    assert opened.page.locator('#plot .highlighted[data-trial="0003"]').count() == 2


def test_a_click_selects_a_trial_and_another_deselects_it(opened: Opened) -> None:
    assert opened.selected() == ["0005", "0000"]
    opened.page.mouse.click(*opened.position("0002"))
    assert opened.selected() == ["0005", "0000", "0002"]
    table = opened.page.inner_text("#selected")
    assert "refined from" in table
    assert "82.0% (77.0 to 87.0%): 81.0%, 82.0%, 83.0%" in table
    assert opened.page.locator("#export pre").all_inner_texts()[-1].endswith("--select trial:0002")
    assert opened.page.locator("#curves .line.is-selected").count() == 3
    opened.page.mouse.click(*opened.position("0002"))
    assert opened.selected() == ["0005", "0000"]


def test_everything_can_be_done_by_keyboard(opened: Opened) -> None:
    opened.page.locator("#plot svg").focus()
    for key in ("Home", "ArrowRight", "ArrowRight"):
        opened.page.keyboard.press(key)
    tooltip = opened.page.inner_text("#tooltip")
    current = opened.page.locator("#plot svg").get_attribute("aria-activedescendant")
    trial = opened.page.locator(f"#{current}").get_attribute("data-trial")
    assert tooltip.startswith(f"trial {trial}")
    opened.page.keyboard.press("Enter")
    assert trial in opened.selected()
    assert opened.page.locator(f"#{current}").get_attribute("aria-selected") == "true"
    opened.page.keyboard.press("Escape")
    assert not opened.page.locator("#tooltip").is_visible()
    opened.page.locator('#frontier tr[data-trial="0003"] button').focus()
    opened.page.keyboard.press("Enter")
    assert "0003" in opened.selected()


def test_a_seventh_selected_trial_replaces_the_first(opened: Opened) -> None:
    opened.page.locator("details summary").click()
    for trial in ("0001", "0002", "0003", "0004", "0006"):
        opened.page.locator(f'#trials tr[data-trial="{trial}"] button').click()
    assert opened.selected() == ["0000", "0001", "0002", "0003", "0004", "0006"]


def test_metrics_by_class_are_shown_for_selected_trials_that_were_tested(opened: Opened) -> None:
    assert opened.page.locator("#classes tbody tr").count() == 3
    assert "<script>alert(1)</script>" in opened.page.inner_text("#classes")
    assert "50%" in opened.page.inner_text("#classes")
    opened.page.locator("#selected thead button").first.click()
    assert "select one" in opened.page.inner_text("#classes")


def test_theme_follows_the_system_until_it_is_switched(opened: Opened) -> None:
    light = opened.background()
    opened.page.emulate_media(color_scheme="dark")
    dark = opened.background()
    assert light != dark
    opened.page.get_by_role("button", name="Light theme").click()
    assert opened.background() == light
    opened.page.get_by_role("button", name="Dark theme").click()
    assert opened.background() == dark


def test_downloads_are_the_tables(opened: Opened, data: dict[str, Any], tmp_path: Path) -> None:
    for name, text in csv_tables(data).items():
        with opened.page.expect_download() as download:
            opened.page.locator(f'[data-csv="{name}"]').click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8") == text


def test_trials_are_sorted_and_filtered(opened: Opened) -> None:
    opened.page.locator("details summary").click()
    head = opened.page.locator("#trials th button", has_text="parameters")

    def names() -> list[str]:
        return opened.page.locator("#trials tbody tr:visible th").all_inner_texts()

    assert names() == [f"000{number}" for number in range(8)]
    head.click()
    assert names() == ["0004", "0006", "0003", "0001", "0002", "0005", "0000", "0007"]
    head.click()
    assert names() == ["0000", "0005", "0001", "0002", "0003", "0006", "0004", "0007"]
    opened.page.locator("#filter").fill("GRU 2x2x2")
    assert names() == ["0002"]
    assert opened.page.inner_text("#num-shown") == "1 of 8"


def test_plot_is_zoomed_by_buttons_keys_and_dragging(opened: Opened) -> None:
    def ends() -> list[float]:
        return opened.page.evaluate("[charts[0].x.low, charts[0].x.high, charts[0].y.low, charts[0].y.high]")

    whole = ends()
    opened.page.get_by_role("button", name="Zoom in").click()
    assert ends()[0] > whole[0]
    opened.page.get_by_role("button", name="Reset").click()
    assert ends() == whole
    opened.page.locator("#plot svg").focus()
    opened.page.keyboard.press("End")
    opened.page.keyboard.press("+")
    assert ends()[3] < whole[3]
    opened.page.keyboard.press("0")
    x, y = opened.position("0002")
    opened.page.mouse.move(x - 60, y - 60)
    opened.page.mouse.down()
    opened.page.mouse.move(x + 60, y + 60, steps=3)
    opened.page.mouse.up()
    assert whole[0] < ends()[0] < 3000 < ends()[1] < whole[1]
    assert opened.selected() == ["0005", "0000"]


def test_a_range_on_an_axis_is_selected_by_dragging_and_keys_and_all_figures_follow(opened: Opened) -> None:
    opened.page.locator("details summary").click()
    axis = opened.page.locator("#coordinates .handle").last
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    x, top = box["x"] + box["width"] / 2, box["y"]
    opened.page.mouse.move(x, top + 2)
    opened.page.mouse.down()
    opened.page.mouse.move(x, top + 0.3 * box["height"], steps=3)
    opened.page.mouse.up()
    opened.page.locator("#coordinates .range").wait_for()
    # Of the validation metrics 28 to 99%, the highest.
    shown = opened.page.locator("#trials tbody tr:visible th").all_inner_texts()
    assert shown == ["0004", "0005"]
    assert opened.page.locator('#plot g.faded[data-trial="0002"]').count() == 1
    assert opened.page.locator('#plot g.faded[data-trial="0004"]').count() == 0
    assert opened.page.locator('#curves .faded[data-trial="0002"]').count() == 1
    assert opened.selected() == ["0005", "0000"]
    opened.page.get_by_role("button", name="Clear the ranges").click()
    assert opened.page.locator(".faded").count() == 0
    opened.page.locator("#coordinates .handle").last.focus()
    opened.page.keyboard.press("ArrowDown")
    assert opened.page.locator("#trials tbody tr:visible th").count() < 7
    opened.page.keyboard.press("Delete")
    assert opened.page.locator("#trials tbody tr:visible th").count() == 8


def test_a_selected_trial_has_one_colour_in_all_figures(opened: Opened) -> None:
    slots = [
        set(node.get_attribute("class").split()) & {f"s{slot}" for slot in range(6)}
        for node in opened.page.locator('.is-selected[data-trial="0005"]').all()
    ]
    assert len(slots) > 4
    assert all(slot == {"s0"} for slot in slots)


def test_each_command_has_a_button_that_copies_it(opened: Opened) -> None:
    commands = opened.page.locator("pre").count()
    assert commands >= 4
    assert opened.page.get_by_role("button", name="Copy").count() == commands


def test_legend_hides_and_shows_a_role(opened: Opened) -> None:
    button = opened.page.locator('#legend [data-role="dominated"]')
    assert opened.page.locator("#plot g.dominated").count() == 1
    button.click()
    assert opened.page.locator("#plot g.dominated").count() == 0
    assert button.get_attribute("aria-pressed") == "false"
    button.press("Enter")
    assert opened.page.locator("#plot g.dominated").count() == 1


def test_colours_stand_for_formats_where_they_differ(browser: Any, opened: Opened, tmp_path: Path) -> None:
    assert opened.page.locator("#matrix:visible, #formats button, [class*=format-]").count() == 0
    sweep = make_sweep(tmp_path / "sweep", OF_FORMATS)
    write_frontier(add_baselines(sweep, {"low-rank-1000": (900, 0.3)}), Evaluate())
    shown = Opened(browser, sweep / "report.html")

    def colours(selector: str) -> list[str]:
        return shown.page.locator(selector).evaluate_all("nodes => nodes.map((node) => getComputedStyle(node).fill)")

    def legend() -> dict[str, str]:
        names = shown.page.locator("#formats button").all_inner_texts()
        return dict(zip(names, colours("#formats rect"), strict=True))

    def trials() -> list[str]:
        return [colours(f'#plot g[data-trial="{name}"]:not(.test)')[0] for name in ("0000", "0001", "0002")]

    assert list(legend()) == ["tt", "cp"]
    assert trials() == [legend()["tt"], legend()["cp"], legend()["cp"]]
    assert "0001 best, knee · cp" in shown.page.text_content("#plot")
    assert not set(colours('#legend g, #plot g[data-trial="low-rank-1000"]')) & set(legend().values())
    shown.page.get_by_role("button", name="tt", exact=True).click()
    faded = "[...document.querySelectorAll('.faded')].map((node) => node.dataset.trial)"
    assert set(shown.page.evaluate(faded)) == {"0000", None}
    shown.page.get_by_role("radio", name="recurrent format").check()
    assert trials() == [legend()[name] for name in ("dense", "low-rank", "tt")]
    assert shown.page.evaluate(faded) == []
    assert shown.errors == []
    shown.context.close()


def test_published_results_are_points_only_if_the_axis_counts_the_same_parameters(opened: Opened) -> None:
    assert opened.page.locator("#plot .claim").count() == 2
    assert "paper: tt-gru 81.3%" in opened.page.text_content("#plot")
    opened.page.get_by_role("radio", name="input-to-hidden weights").check()
    assert opened.page.locator("#plot .claim").count() == 0
    assert opened.page.locator("#plot g.published").count() == 2
    # The frontier of this axis.
    assert opened.page.locator("#plot .steps").count() == 1


def test_names_with_markup_stay_text(browser: Any, tmp_path: Path) -> None:
    trial = {"num_params": 10, "val_metric": 0.5, "config": config(cell=HOSTILE, **{HOSTILE: HOSTILE})}
    other = {"num_params": 20, "val_metric": 0.6, "config": config(cell="gru", **{HOSTILE: "other"})}
    sweep = make_sweep(tmp_path / "sweep", {"0000": trial, "0001": other}, dataset=HOSTILE, classes=[HOSTILE])
    data = full_of_hostility(write_frontier(sweep, Evaluate()))
    write_page(tmp_path / "report.html", data)
    opened = Opened(browser, tmp_path / "report.html")
    opened.page.mouse.click(*opened.position("0000"))
    opened.page.mouse.move(*opened.position("0000"))
    assert HOSTILE in opened.page.inner_text("#selected")
    assert HOSTILE in opened.page.inner_text("#classes")
    assert HOSTILE in opened.page.inner_text("#tooltip")
    assert opened.page.locator("script").count() == 2
    assert opened.page.locator("img").count() == 0
    assert (opened.errors, opened.requested) == ([], [(tmp_path / "report.html").as_uri()])
    opened.context.close()


def full_of_hostility(data: dict[str, Any]) -> dict[str, Any]:
    """The other values that come from users."""
    rows = [{"class": HOSTILE, "num_clips": 1, "precision": 1.0, "recall": 1.0, "f1": 1.0}]
    for point in data["frontier"]:
        point["per_class"] = rows
    claims = [{"model": HOSTILE, "num_input_params": 10, "accuracy": 0.5}]
    shares = {"val_metric": {HOSTILE: 1.0}}
    return data | {"published": claims, "importances": shares, "edges": [{"text": HOSTILE}]}

"""The page of a run that goes on, in a real browser: it comes, it is made new, and its reader's choices stay."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from report_runs import write_run
from test_page_in_browser import PATIENCE_MS, browser  # noqa: F401  # a fixture
from test_report_written import MIXED

from bench_core.drive.show.web import Snapshot, Web

pytestmark = pytest.mark.slow  # `make test-quick` needs no browser

NOW = Snapshot(
    heading="results/mine: 3 of 9 cells ended, 1 failed; 4 min so far, about 12 min left (from measured times)",
    lines=(
        ("running", "an-engine.fp16.b16: measure, batch 12 of at most 60; 11 batches, 2992 ± 124 token/s so far; 41 s"),
        ("failed", "an-engine.int8.b64: oom_kv: <b>out of memory</b>"),
        ("to come", "an-engine.fp16.b64, an-engine.int8.b1 and 3 more"),
    ),
    ended=("an-engine.fp16.b1: 260.0 ± 28.5 token/s", "an-engine.fp16.b4: 889.9 ± 146.4 token/s"),
)  # fmt: skip


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Web]:
    """A run on a GPU, whose driver shows something again and again."""
    web, over = Web(0), threading.Event()
    web.begin(write_run(tmp_path, MIXED), on_cpu=False)

    def show() -> None:
        while not over.wait(0.2):
            web._next_s = 0.0
            web.show(NOW)

    thread = threading.Thread(target=show)
    thread.start()
    yield web
    over.set()
    thread.join()
    web.close()


def choices(page: Page) -> dict[str, object]:
    """What a reader has chosen."""
    return dict(page.evaluate("""() => ({
        point: state.point, picked: [...state.picked], memory: document.querySelector("[name=memory_gib]").value,
        theme: document.documentElement.dataset.theme, sorting: sorting.column,
        open: document.querySelectorAll("#tables details")[1].open,
        answer: document.querySelector("#answer strong").textContent,
    })"""))  # fmt: skip


def test_the_page_comes_and_is_made_new_with_its_readers_choices(browser: Browser, watched: Web) -> None:  # noqa: F811
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(watched.url)
    assert "The page comes as soon as" in page.inner_text("main")
    page.wait_for_selector('#watch[data-page="1"] .head:has-text("3 of 9 cells ended")')
    page.wait_for_selector("#chart-fastest svg")
    assert "<b>out of memory</b>" in page.inner_text("#watch"), "text of a run is text"
    page.evaluate("() => { window.before = true; }")
    page.click("#points button:nth-child(2)")
    page.click("#legend button:nth-child(2)")
    page.click("#theme")
    page.fill("[name=memory_gib]", "14")
    page.click("#cell-table th:nth-child(3) button")
    page.click("#tables details:nth-of-type(2) summary")
    chosen = choices(page)
    assert chosen["picked"]
    assert chosen["open"]
    page.evaluate("() => document.activeElement.blur()")
    watched.ended += 1
    page.wait_for_selector('#watch[data-page="2"] .head:has-text("3 of 9 cells ended")')
    assert page.evaluate("() => window.before") is None, "it was loaded again"
    assert choices(page) == chosen
    assert errors == []
    context.close()


def test_a_reader_who_types_is_not_interrupted_and_the_end_is_told(browser: Browser, watched: Web) -> None:  # noqa: F811
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.set_default_timeout(PATIENCE_MS)
    page.goto(watched.url)
    page.wait_for_selector('#watch[data-page="1"] .head:has-text("3 of 9 cells ended")')
    assert page.evaluate("() => document.querySelector('#watch').scrollWidth <= innerWidth")
    page.focus("[name=memory_gib]")
    page.keyboard.type("1")
    watched.ended += 1
    page.wait_for_function("() => fetch('/state').then((answer) => answer.json()).then((told) => told.page === 2)")
    page.wait_for_timeout(4000)  # a question or more later
    page.keyboard.type("4")
    assert page.input_value("[name=memory_gib]") == "14"
    assert page.get_attribute("#watch", "data-page") == "1"
    watched.close()
    page.wait_for_selector("#watch:has-text('No answer any more: the run has ended; its report is')")
    page.close()

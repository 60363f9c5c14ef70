"""The dashboard with as many models as people have, under the names that they have, from a phone to a wall."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
import yaml
from playwright.sync_api import Browser, Locator, Page, expect

from tests.ui.conftest import DEADLINE, Complaints, Llmux

NAMES = [
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.3-70B-Instruct",
    "Qwen/Qwen2.5-Coder-32B-Instruct-AWQ",
    "Qwen/Qwen3-30B-A3B-Instruct-2507",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    "unsloth/DeepSeek-R1-Distill-Llama-8B",
    "google/gemma-3-27b-it",
    "nvidia/Llama-3_3-Nemotron-Super-49B-v1_5",
    *(f"ibm-granite/granite-{number}.3-8b-instruct" for number in range(20)),
]
SEEN = NAMES[:10]
"""Those that have been awake."""


@pytest.fixture(scope="module")
def crowd(backend_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llmux]:
    """Thirty models on one device, of which ten have taken turns; the last of those is awake, and stays so."""
    folder = tmp_path_factory.mktemp("crowd")
    hooks = {"wake": 'touch "$flag"', "sleep": 'rm -f "$flag"', "alive": 'test -e "$flag"'}
    model = {"port": backend_port} | {
        hook: f'flag=$(echo "$LLMUX_MODEL" | tr / _); {script}' for hook, script in hooks.items()
    }
    config = {"policy": {"min_active_secs": 3600}, "models": dict.fromkeys(NAMES, model)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    made = Llmux(folder)
    made.start()
    try:
        for name in SEEN:
            httpx.post(f"{made.url}/admin/v1/models/{name}/switch", timeout=DEADLINE).raise_for_status()
        yield made
    finally:
        made.kill()


@pytest.fixture
def page(browser: Browser, crowd: Llmux, complaints: Complaints) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(DEADLINE * 1000)
    page = context.new_page()
    page.on("console", complaints.console)
    page.on("pageerror", lambda error: complaints.heard.append(str(error)))
    page.goto(f"{crowd.url}/ui/")
    page.locator("button[data-order=reload]").wait_for()
    expect(page.locator("#costs-rows tr")).to_have_count(len(SEEN))
    try:
        yield page
        assert complaints.unexpected == []
    finally:
        context.close()


def row(page: Page, model: str) -> Locator:
    return page.locator("#models-rows tr").filter(has=page.get_by_text(re.compile(f"^{re.escape(model)}$")))


def resize(page: Page, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})


def box(locator: Locator) -> tuple[float, float, float, float]:
    """Left, top, right and bottom."""
    found = locator.bounding_box()
    assert found is not None
    return found["x"], found["y"], found["x"] + found["width"], found["y"] + found["height"]


@pytest.mark.parametrize("width", [390, 1280, 2560])
def test_headings_of_the_costs_stay_in_their_columns(page: Page, width: int) -> None:
    resize(page, width, 900)
    headings = page.locator("#costs-head th[title]")
    expect(headings).to_have_count(len(SEEN))
    right = box(page.locator("#costs-head th").first)[2]
    for name, heading in zip(SEEN, headings.all(), strict=True):
        expect(heading).to_have_attribute("title", name)
        column, text = box(heading), box(heading.locator(".cut"))
        assert column[0] >= right - 1, name
        assert column[0] <= text[0], name
        assert text[2] <= column[2] + 1, name
        assert heading.locator(".cut").evaluate("(cut) => getComputedStyle(cut).overflow") == "hidden"
        right = column[2]


def test_names_of_rows_stay_when_the_costs_are_scrolled(page: Page) -> None:
    resize(page, 390, 844)
    name = page.locator("#costs-rows th").nth(1)
    before = box(name)[0]
    page.locator("#costs .scroll").evaluate("(scroll) => scroll.scrollLeft = 400")
    assert page.locator("#costs .scroll").evaluate("(scroll) => scroll.scrollLeft") == 400
    assert box(name)[0] == before


def test_a_wall_shows_more_columns_and_larger_type(page: Page) -> None:
    def columns() -> int:
        edge = box(page.locator("#costs .scroll"))[2]
        return sum(box(heading)[2] <= edge for heading in page.locator("#costs-head th[title]").all())

    def sizes() -> list[float]:
        canvas = box(page.locator("#timeline canvas"))
        size = "(element) => parseFloat(getComputedStyle(element).fontSize)"
        return [canvas[3] - canvas[1], page.locator("body").evaluate(size), page.locator(".pill").first.evaluate(size)]

    few, small = columns(), sizes()
    resize(page, 2560, 1440)
    page.wait_for_function("() => document.querySelector('#timeline canvas').clientWidth > 2300")
    assert columns() == len(SEEN) > few
    assert all(large > 1.3 * usual for large, usual in zip(sizes(), small, strict=True))


def test_names_are_told_apart_where_there_is_little_room(page: Page) -> None:
    short = page.evaluate("async (names) => [...(await import('./names.js')).shortNames(names)]", NAMES)
    assert dict(short)[NAMES[0]] == "Mistral-Small-3.2-24B-Instruct-2506"
    assert dict(short)[SEEN[7]] == SEEN[7]  # there is one of another organisation
    texts = [text for _, text in short]
    elide = "async ([t, n]) => [...(await import('./names.js')).elideAll(t, (one) => one.length <= n)]"
    for room in (12, 16, 24, 60):
        made = dict(page.evaluate(elide, [texts, room]))
        assert all(len(label) <= room for label in made.values())
        assert len(set(made.values())) == len(NAMES), room
        assert all(label == text for text, label in made.items() if len(text) <= room)


def test_the_timeline_tells_a_name_whole(page: Page) -> None:
    resize(page, 390, 844)
    left, top, _, _ = box(page.locator("#timeline canvas"))
    page.mouse.move(left + 20, top + 26 + 12)
    expect(page.locator(".tip")).to_have_text(NAMES[0])


def test_a_phone_shows_a_model_that_sleeps_in_a_line(page: Page) -> None:
    resize(page, 390, 844)
    assert page.evaluate("document.documentElement.scrollHeight") < 5000
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    _, top, _, bottom = box(row(page, NAMES[0]))
    assert bottom - top < 48
    awake = row(page, SEEN[-1])
    expect(awake.locator(".gist")).to_be_visible()
    assert box(awake)[3] - box(awake)[1] < 72
    more = row(page, NAMES[0]).get_by_label(f"More about {NAMES[0]}")
    wake = row(page, NAMES[0]).locator("button[data-order=switch]")
    expect(wake).to_be_hidden()
    more.focus()
    page.keyboard.press("Enter")
    expect(more).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Tab")
    expect(wake).to_be_focused()
    more.click()
    expect(wake).to_be_hidden()


def test_the_filter_is_there_where_there_are_many(page: Page) -> None:
    resize(page, 390, 844)
    page.locator("#models-filter").fill("granite-1")
    expect(page.locator("#models-rows tr")).to_have_count(11)


@pytest.mark.parametrize("width", [390, 1280])
def test_sections_are_one_key_away(page: Page, width: int) -> None:
    resize(page, width, 844)
    links = page.locator(".sections a")
    for link in links.all():
        assert 0 <= box(link)[0] < box(link)[2] <= width
        target = page.locator(str(link.get_attribute("href")))
        link.focus()
        page.keyboard.press("Enter")
        expect(target).to_be_focused()
        bar = box(page.locator(".sections"))
        assert 0 <= bar[1] < bar[3] <= box(target)[1] + 1  # in sight, and over nothing that it leads to
        assert box(target)[1] < 844
    page.locator(".sections a[href='#models']").click()
    expect(page.locator(".sections a[href='#models']")).to_have_attribute("aria-current", "true")


def test_the_playground_offers_a_model_that_is_awake(page: Page) -> None:
    chosen = page.locator("#playground-model")
    expect(chosen).to_have_value(SEEN[-1])
    chosen.select_option(NAMES[20])
    page.locator("#playground-text").fill("hello")
    page.wait_for_function("async () => (await import('./store.js')).sinceStatus() < 1")
    expect(chosen).to_have_value(NAMES[20])  # it is theirs who chose


def test_a_model_that_is_not_woken_says_why(page: Page, crowd: Llmux) -> None:
    asked = NAMES[20]
    page.locator("#playground-model").select_option(asked)
    page.locator("#playground-text").fill("hello")
    page.locator("#playground-text").press("Control+Enter")
    trouble = row(page, asked).locator(".trouble")
    expect(trouble).to_have_text(f"waits: {SEEN[-1].partition('/')[2]} is kept awake")
    page.locator("#playground-stop").click()
    expect(trouble).to_have_text("")


def test_no_model_waits_while_nobody_asks_however_old_the_news_is(page: Page) -> None:
    page.wait_for_function("async () => (await import('./store.js')).sinceStatus() > 3")  # drawn anew every second
    assert set(page.locator("#models-rows .trouble").all_text_contents()) == {""}

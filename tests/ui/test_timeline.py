"""Looking around in the timeline, with a mouse and with fingers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.ui.conftest import DEADLINE, Complaints, Llmux

LANE = 26 + 12
"""Pixels from the top to the middle of the first lane."""


def size(page: Page) -> tuple[float, float, float, float]:
    """Left, top, width and height of the picture."""
    found = page.locator("#timeline canvas").bounding_box()
    assert found is not None
    return found["x"], found["y"], found["width"], found["height"]


def slept(llmux: Llmux) -> None:
    """Makes `good` the one lane of the first device, with something in it that is over."""
    for order in ("switch", "sleep"):
        httpx.post(f"{llmux.url}/admin/v1/models/good/{order}", timeout=DEADLINE).raise_for_status()


def find(page: Page, text: str) -> float:
    """Where on the first lane is what has `text` in its tip?"""
    left, top, width, _ = size(page)
    for x in range(int(left + width) - 2, int(left + width / 8), -4):
        page.mouse.move(x, top + LANE)
        if text in (page.locator(".tip").text_content() or ""):
            return x
    pytest.fail(f"{text} is nowhere")


def test_what_was_before_llmux_is_unknown(page: Page, llmux: Llmux) -> None:
    expect(page.locator("#legend li")).to_contain_text(["awake", "asleep", "unknown"])
    slept(llmux)
    page.locator("#timeline-tools button", has_text="12 h").click()
    left, top, width, _ = size(page)
    page.mouse.move(left + width / 2, top + LANE)
    tip = page.locator(".tip")
    expect(tip).to_have_text(re.compile("^\\w+: unknown; llmux had not started$"))
    page.locator("#timeline-tools button", has_text="5 min").click()
    page.locator("#timeline-tools button", has_text="+").click(click_count=4)
    x = find(page, "asleep")
    page.mouse.move(x, top + LANE)
    expect(tip).to_contain_text(": asleep")


def test_the_wheel_zooms_where_it_points_but_only_with_ctrl(page: Page) -> None:
    began = time.time() - 300  # as if llmux had been there so long
    state = {"model": "good", "at": began, "state": "awake", "cause": "", "devices": ["gpu0"]}
    asleep = {**state, "at": began + 5, "state": "asleep", "devices": []}
    page.route("**/admin/v1/timeline?*", lambda route: route.fulfill(json={"states": [state, asleep]}))
    page.reload()
    page.set_viewport_size({"width": 1280, "height": 500})
    expect(page.locator("#timeline canvas")).to_have_attribute("aria-label", re.compile("gpu0"))
    five = page.locator("#timeline-tools button").first
    page.locator("#timeline").evaluate("(element) => element.scrollIntoView({ block: 'center' })")
    page.keyboard.press(",")  # and a quarter back, so that it stands still, far from the middle and from both ends
    x = find(page, "good: awake") - 8  # its right end, which is 17 pixels from the left one
    page.mouse.move(x, size(page)[1] + LANE)
    told = page.locator(".tip").text_content()
    before = page.evaluate("scrollY")
    page.keyboard.down("Control")
    for _ in range(6):
        page.mouse.wheel(0, -120)
    page.keyboard.up("Control")
    expect(five).to_have_attribute("aria-pressed", "false")
    assert page.evaluate("scrollY") == before
    _, top, _, _ = size(page)
    page.mouse.move(x, top + LANE)
    expect(page.locator(".tip")).to_have_text(told or "")  # it is where it was
    expect(page.locator("#timeline-live")).to_have_attribute("aria-pressed", "false")
    page.locator("#timeline-live").click()
    page.locator("#timeline-tools button").first.click()
    page.mouse.move(x, top + LANE)
    page.mouse.wheel(0, 120)
    page.wait_for_function("(before) => scrollY > before", arg=before)
    expect(five).to_have_attribute("aria-pressed", "true")


def test_dragging_looks_back(page: Page) -> None:
    live = page.locator("#timeline-live")
    left, top, width, _ = size(page)
    page.mouse.move(left + width / 2, top + LANE)
    page.mouse.down()
    page.mouse.up()
    expect(live).to_have_attribute("aria-pressed", "true")  # that was no drag
    page.mouse.down()
    page.mouse.move(left + width / 2 + 100, top + LANE, steps=4)
    page.mouse.up()
    expect(live).to_have_attribute("aria-pressed", "false")
    page.mouse.down()
    page.mouse.move(left + width / 2 - 100, top + LANE, steps=4)
    page.mouse.up()
    expect(live).to_have_attribute("aria-pressed", "true")


@pytest.fixture
def phone(browser: Browser, llmux: Llmux, complaints: Complaints) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    context.set_default_timeout(DEADLINE * 1000)
    page = context.new_page()
    page.on("console", complaints.console)
    page.goto(f"{llmux.url}/ui/")
    page.locator("#connection[data-kind=live]").wait_for()
    try:
        yield page
        assert complaints.unexpected == []
    finally:
        context.close()


@pytest.mark.parametrize("across", [True, False], ids=["across", "upright"])
def test_two_fingers_zoom_the_timeline_and_not_the_page(phone: Page, *, across: bool) -> None:
    phone.locator("#timeline canvas").scroll_into_view_if_needed()
    five = phone.locator("#timeline-tools button").first
    expect(five).to_have_attribute("aria-pressed", "true")
    left, top, width, height = size(phone)
    x, y = left + width * 0.7, top + height / 2
    touch = phone.context.new_cdp_session(phone)

    def fingers(kind: str, apart: float) -> None:
        ends = [] if kind == "touchEnd" else [-apart / 2, apart / 2]
        points = [{"x": x + end * across, "y": y + end * (not across), "id": id_} for id_, end in enumerate(ends)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", 20)
    for apart in range(24, 72, 4):
        fingers("touchMove", apart)
    fingers("touchEnd", 0)
    expect(five).to_have_attribute("aria-pressed", "false")
    assert phone.evaluate("visualViewport.scale") == 1

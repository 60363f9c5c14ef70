"""The dashboard in a real browser, on a real llmux: what people see and do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from playwright.sync_api import Browser, Locator, Page, expect

from tests.ui.conftest import DEADLINE, ELSEWHERE, MARKUP, SCRIPT, TOKENS, Complaints, Llmux

expect.set_options(timeout=DEADLINE * 1000)


def row(page: Page, model: str) -> Locator:
    return page.locator("#models-rows tr").filter(
        has=page.locator(".name", has_text=re.compile(f"^{re.escape(model)}$"))
    )


def state(page: Page, model: str) -> Locator:
    return row(page, model).locator(".pill")


def order(page: Page, model: str, name: str) -> None:
    row(page, model).locator(f"button[data-order={name}]").click()


def write(page: Page, model: str, text: str) -> Locator:
    """Send by keyboard; gives the answer as it is shown."""
    page.locator("#playground-model").select_option(model)
    page.locator("#playground-text").fill(text)
    page.locator("#playground-text").press("Control+Enter")
    return page.locator("#playground-talk li.assistant").last


def test_what_is_the_case(page: Page) -> None:
    expect(page.locator("#readiness")).to_have_text("ready")
    expect(page.locator("#models-rows tr")).to_have_count(5)
    for model in ("good", "slow", "bad", "stuck", MARKUP):
        expect(state(page, model)).to_have_text("asleep")
    expect(row(page, "good")).to_contain_text("also gpt")
    expect(page.locator("#overview")).to_contain_text("of 5 models")
    expect(page.locator("#timeline canvas")).to_have_attribute("aria-label", re.compile("gpu0: nobody awake"))


def test_a_switch_by_button(page: Page) -> None:
    order(page, "good", "switch")
    expect(state(page, "good")).to_have_text("awake")
    expect(page.locator("#notices")).to_contain_text("good is awake")
    expect(page.locator("#switches-rows tr").first).to_contain_text(
        re.compile("nothing \u2192 good.*operator.*success")
    )
    expect(page.locator("#costs-rows")).to_contain_text("cold start")
    expect(page.locator("#timeline canvas")).to_have_attribute("aria-label", re.compile("gpu0: good awake since"))
    expect(page.locator("#hooks-output li")).to_have_text([re.compile("good wake up"), re.compile("good wake really")])
    run = page.locator("#hooks-runs li", has=page.locator("summary", has_text="good wake")).first
    expect(run.locator("summary")).to_contain_text("ok")
    run.locator("summary").click()
    expect(run.locator("pre")).to_have_text("up\nreally\n")
    order(page, "good", "sleep")  # nothing of it is in flight, so there is nothing to ask
    expect(state(page, "good")).to_have_text("asleep")


def test_an_order_that_fails_says_why(page: Page, complaints: Complaints) -> None:
    complaints.expected.append("503")
    order(page, "bad", "switch")
    notice = page.locator("#notices .notice.bad")
    expect(notice).to_contain_text("exit code 3")
    expect(page.locator("#switches-rows tr").first).to_contain_text("failure")
    notice.get_by_label("Dismiss").click()
    expect(notice).to_have_count(0)


def test_a_switch_tells_what_is_usual(page: Page, llmux: Llmux) -> None:
    switching = page.locator("#overview .tile").last
    (llmux.folder / "go").touch()
    order(page, "slow", "switch")
    expect(state(page, "slow")).to_have_text("awake")
    expect(page.locator("#costs-rows tr").first).to_contain_text(" s")  # so what a cold start takes is known
    order(page, "slow", "sleep")
    expect(state(page, "slow")).to_have_text("asleep")
    (llmux.folder / "go").unlink()
    order(page, "slow", "switch")
    expect(switching.locator(".change")).to_have_text("nothing \u2192 slow")
    expect(switching.locator("li")).to_contain_text(re.compile(r"waking, \d.* s of about \d.* s$"))
    (llmux.folder / "go").touch()
    expect(switching.locator("li")).to_have_count(0)


def test_reloading(page: Page, llmux: Llmux, complaints: Complaints) -> None:
    complaints.expected.append("422")
    file = llmux.folder / "config.yaml"
    as_it_was = file.read_text()
    reload_ = page.locator("button[data-order=reload]")
    try:
        file.write_text(as_it_was + "nonsense: 1\n")
        reload_.click()
        page.locator("#confirm-yes").click()
        expect(page.locator("#notices .notice.bad")).to_contain_text("nonsense")
        file.write_text(as_it_was.replace("- gpt", "- gpt\n    - renamed"))
        reload_.click()
        page.locator("#confirm-yes").click()
        expect(page.locator("#notices")).to_contain_text("The configuration was read again")
        expect(row(page, "good")).to_contain_text("also gpt, renamed")
    finally:
        file.write_text(as_it_was)
    reload_.click()
    page.locator("#confirm-yes").click()
    expect(row(page, "good").locator(".aside")).to_have_text("also gpt")


def test_a_lost_model_and_vouching_for_it(page: Page, complaints: Complaints) -> None:
    complaints.expected.append("503")
    order(page, "stuck", "switch")
    expect(state(page, "stuck")).to_have_text("awake")
    order(page, "stuck", "sleep")
    expect(state(page, "stuck")).to_have_text("lost")
    expect(page.locator("#readiness")).to_contain_text("not ready")
    expect(page.locator("#readiness")).to_contain_text("device lost: gpu1")
    expect(row(page, "stuck").locator(".trouble")).to_contain_text("exit code 1")
    order(page, "stuck", "free")
    expect(page.locator("#confirm")).to_contain_text("Is the memory of stuck free?")
    expect(page.locator("#confirm-no")).to_be_focused()
    page.keyboard.press("Enter")  # the answer that changes nothing
    expect(state(page, "stuck")).to_have_text("lost")
    order(page, "stuck", "free")
    page.locator("#confirm-yes").click()
    expect(state(page, "stuck")).to_have_text("asleep")
    expect(page.locator("#readiness")).to_have_text("ready")


def test_giving_the_devices_away_and_taking_them_back(page: Page, complaints: Complaints) -> None:
    complaints.expected.append("503")
    order(page, "good", "switch")
    expect(state(page, "good")).to_have_text("awake")
    page.locator("button[data-order=release]").click()
    expect(page.locator("#confirm")).to_contain_text("Give the devices away?")
    page.locator("#confirm-yes").click()
    expect(page.locator("#released")).to_contain_text("requests are held until Resume. Everything is asleep.")
    expect(state(page, "good")).to_have_text("asleep")
    expect(row(page, "good").locator("button[data-order=switch]")).to_have_count(0)  # it would be refused
    answer = write(page, "good", "one two")
    expect(page.locator("#requests-rows tr")).to_contain_text("waiting")
    page.locator("button[data-order='release?refuse=true']").click()
    page.locator("#confirm-yes").click()
    expect(answer.locator("p")).to_have_text(re.compile("^503: "))
    expect(page.locator("#readiness")).to_contain_text("not ready")
    page.locator("button[data-order=resume]").click()
    expect(page.locator("#released")).to_be_hidden()
    expect(page.locator("#readiness")).to_have_text("ready")


def test_pinning_and_draining_by_button(page: Page) -> None:
    order(page, "good", "pin")
    expect(row(page, "good").locator(".standing")).to_have_text("pinned")
    order(page, "good", "drain")
    page.locator("#confirm-yes").click()
    expect(row(page, "good").locator(".standing")).to_have_text("pinned, drained")
    order(page, "good", "unpin")
    order(page, "good", "undrain")
    expect(row(page, "good").locator(".standing")).to_have_text("")


def test_a_hook_is_shown_while_it_runs(page: Page, llmux: Llmux) -> None:
    order(page, "slow", "switch")
    running = page.locator("#hooks-running li")
    expect(running).to_contain_text("slow wake running for")
    page.reload()
    expect(running).to_contain_text("slow wake running for")  # though it began before this page was there
    (llmux.folder / "go").touch()
    expect(running).to_have_count(0)


def test_the_playground_streams(page: Page) -> None:
    answer = write(page, "good", "one two")
    expect(answer).to_have_attribute("aria-busy", "true")
    expect(answer.locator(".said")).to_contain_text("heard: one two")
    expect(answer).to_have_attribute("aria-busy", "true")  # there is something, and not all of it
    expect(page.locator("#requests-rows tr")).to_contain_text("in flight")
    expect(answer).not_to_have_attribute("aria-busy", "true")
    expect(answer.locator("p")).to_have_text(re.compile(rf"^first token after .*, {TOKENS} tokens, .* tokens/s$"))
    expect(page.locator("#requests-empty")).to_be_visible()


def test_waiting_is_shown_and_can_be_cancelled(page: Page, llmux: Llmux, complaints: Complaints) -> None:
    complaints.expected.append("503")
    answer = write(page, "slow", "hello")
    expect(answer.locator("p")).to_have_text(re.compile(r"^waiting for .*; slow is waking"))
    request = page.locator("#requests-rows tr")
    expect(request).to_contain_text(re.compile("slow.*waiting"))
    expect(row(page, "slow").locator(".trouble")).to_have_text("")  # it is being woken
    expect(page.locator("#overview .tile").first).to_contain_text(re.compile("1the oldest for"))
    expect(row(page, "slow").locator("td[data-label=Waiting]")).to_have_text("1")
    request.get_by_role("button").click()
    page.locator("#confirm-yes").click()
    expect(answer.locator("p")).to_contain_text("cancelled")
    expect(request).to_have_count(0)
    again = write(page, "slow", "hello again")
    expect(request).to_contain_text("waiting")
    (llmux.folder / "go").touch()
    expect(again.locator(".said")).to_contain_text("heard: hello again")
    page.locator("#playground-stop").click()
    expect(again.locator("p")).to_contain_text("stopped first token after")


def test_a_request_that_takes_the_place_of_another_is_shown(page: Page, llmux: Llmux) -> None:
    # One leaves and the next comes before the state is told again: the state is as it was, and is not told.
    page.route("**/admin/v1/requests?*", lambda route: route.fulfill(body='{"requests": []}'))
    answer = write(page, "slow", "hello")
    expect(page.locator("#overview .tile").first).to_contain_text(re.compile(r"1the oldest for ([3-9]|\d\d) s"))
    expect(page.locator("#requests-empty")).to_be_visible()
    page.unroute_all()
    expect(page.locator("#requests-rows tr")).to_contain_text(re.compile("slow.*waiting"))
    (llmux.folder / "go").touch()
    expect(answer.locator(".said")).to_contain_text("heard: hello")


def test_requests_say_who_asks_for_what(page: Page, llmux: Llmux) -> None:
    """Where the admin API tells; see the test above for where it does not."""
    known = {"client": "10.1.2.3", "key": "<b>team</b>", "path": "/v1/embeddings", "stream": False, "level": "flex"}
    requests = [
        {"id": 1, "model": "good", "granted": True, "age_secs": 2.0, "events": 0, **known},
        {"id": 2, "model": "good", "granted": True, "age_secs": 1.0, "events": 7, "key": None, "level": "default"},
        {"id": 3, "model": "good", "granted": False, "age_secs": 1.0, "events": 0, **known, "stream": None},
    ]
    page.route("**/admin/v1/requests?*", lambda route: route.fulfill(json={"requests": requests}))
    order(page, "good", "switch")
    write(page, "good", "hello")
    rows = page.locator("#requests-rows tr")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("/v1/embeddings \u00b7 key <b>team</b> \u00b7 from 10.1.2.3 \u00b7 flex")
    expect(rows.first.locator("td").nth(3)).to_have_text("no stream")
    expect(rows.nth(1).locator("td").first).to_have_text("good")
    expect(rows.nth(1).locator("td").nth(3)).to_have_text("7")
    expect(rows.nth(2).locator("td").nth(3)).to_have_text("\u2013")
    expect(page.locator(".requests thead")).to_contain_text("Chunks so far")


def test_the_playground_offers_the_default_model(page: Page, llmux: Llmux) -> None:
    """Where the admin API tells it; else see `test_many_models.py`."""
    told = {**httpx.get(f"{llmux.url}/admin/v1/state", timeout=DEADLINE).json(), "default_model": "gpt"}
    events = f"event: status\ndata: {json.dumps(told)}\n\n"
    page.route("**/admin/v1/events", lambda route: route.fulfill(body=events, content_type="text/event-stream"))
    page.reload()
    expect(page.locator("#playground-model")).to_have_value("good")


def test_devices_tell_what_is_held_and_what_is_promised(page: Page) -> None:
    usage = "async (device) => (await import('./format.js')).usage(device, (name) => name.toUpperCase())"
    gib = 1024**3
    told = {
        "60 GiB of 80 GiB held": {"used": 60 * gib, "capacity": 80 * gib},
        "1 of 1 held": {"used": 1, "capacity": 1, "promised": 0, "promised_to": []},
        "60 GiB of 80 GiB held, 45 GiB promised to A, B": {
            "used": 60 * gib, "capacity": 80 * gib, "promised": 45 * gib, "promised_to": ["a", "b"],
        },
        "changing hands": {"used": 2, "capacity": 1},
    }  # fmt: skip
    for text, device in told.items():
        assert page.evaluate(usage, device) == text


def test_the_playground_says_what_went_wrong(page: Page, complaints: Complaints) -> None:
    complaints.expected.append("503")
    answer = write(page, "bad", "hello")
    expect(answer.locator("p")).to_have_text(re.compile("^503: .*exit code 3"))


@pytest.mark.fault(71)
def test_markup_stays_text(page: Page, complaints: Complaints) -> None:
    complaints.expected.append("503")
    answer = write(page, MARKUP, f"{SCRIPT} {MARKUP}")
    expect(answer.locator("p")).to_contain_text("503")
    order(page, MARKUP, "switch")
    expect(page.locator("#notices .notice.bad")).to_contain_text(MARKUP)
    for line in (SCRIPT, MARKUP):
        expect(page.locator("#hooks-output")).to_contain_text(line)
    run = page.locator("#hooks-runs li", has=page.locator("summary", has_text="wake")).first
    run.locator("summary").click()
    expect(run.locator("pre")).to_contain_text(SCRIPT)
    expect(page.locator("#switches-rows tr").first).to_contain_text(MARKUP)
    echo = write(page, "good", f"{SCRIPT} {MARKUP}")
    expect(echo.locator(".said")).to_contain_text(SCRIPT)  # the model says what it heard
    assert page.locator("main img, main script, .notices img, .notices script").count() == 0
    assert page.locator("script").count() == 2
    assert page.evaluate("globalThis.pwned") is None


@pytest.mark.fault(71)
def test_the_browser_would_not_let_markup_in(page: Page, complaints: Complaints) -> None:
    """The second line of defence, should somebody write `innerHTML` after all, or get a script onto the page."""
    complaints.expected += ["Content Security Policy", "TrustedHTML", "TrustedScript"]
    tried = page.evaluate(
        "() => { try { document.body.innerHTML = '<b>hi</b>'; return 'done' } catch (e) { return e.name } }"
    )
    assert tried == "TypeError"
    page.evaluate(
        "() => { const img = document.createElement('img'); img.setAttribute('src', 'data:,');"
        " document.body.append(img); const p = document.createElement('p'); document.body.append(p);"
        " p.setAttribute('style', 'color: rgb(1, 2, 3)'); p.id = 'styled' }"
    )
    assert page.evaluate("getComputedStyle(document.getElementById('styled')).color") != "rgb(1, 2, 3)"
    assert page.evaluate("globalThis.pwned") is None


def test_both_themes(page: Page) -> None:
    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = background()
    page.emulate_media(color_scheme="dark")
    dark = background()
    assert light != dark
    for theme, shown in (("light", light), ("dark", dark), ("auto", dark), ("light", light)):
        page.locator("#theme").click()
        expect(page.locator("#theme")).to_have_text(f"Theme: {theme}")
        assert background() == shown, theme
    page.reload()
    expect(page.locator("#theme")).to_have_text("Theme: light")
    assert background() == light


def test_by_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#models")).to_be_focused()
    page.keyboard.press("?")
    expect(page.locator("#help-list")).to_contain_text("filter the models")
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    filter_ = page.locator("#models-filter")
    expect(filter_).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.type("gpt")  # an alias; and the t is a t
    expect(page.locator("#models-rows tr")).to_have_count(1)
    expect(page.locator("#theme")).to_have_text("Theme: auto")
    page.keyboard.press("Tab")
    expect(row(page, "good").locator("button[data-order=switch]")).to_be_focused()
    page.keyboard.press("Enter")
    expect(state(page, "good")).to_have_text("awake")
    page.keyboard.press("t")
    expect(page.locator("#theme")).to_have_text("Theme: light")
    page.locator("#timeline canvas").focus()
    live = page.locator("#timeline-live")
    expect(live).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("ArrowLeft")
    expect(live).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("End")
    expect(live).to_have_attribute("aria-pressed", "true")
    five = page.locator("#timeline-tools button").first
    expect(five).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("-")
    expect(five).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("p")
    expect(page.locator("#playground-text")).to_be_focused()


def test_updates_keep_the_focus(page: Page, llmux: Llmux) -> None:
    """Rows are updated all the time; who goes through them by keyboard must not lose their place."""
    button = row(page, "good").locator("button[data-order=switch]")
    button.focus()
    bad = f"{llmux.url}/admin/v1/models/bad/switch"
    httpx.post(bad, timeout=DEADLINE)
    expect(page.locator("#switches-rows tr").first).to_contain_text(re.compile("bad.*failure"))
    expect(button).to_be_focused()
    page.locator("#models-filter").fill("g")
    httpx.post(bad, timeout=DEADLINE)
    expect(page.locator("#models-filter")).to_be_focused()
    expect(page.locator("#models-filter")).to_have_value("g")


def test_it_fits(page: Page) -> None:
    """From a small phone to a wall, nothing has to be scrolled to sideways, and least of all a button."""
    expect(page.locator("#models-rows tr")).to_have_count(5)
    for width in (320, 380, 768, 1600, 2560):
        page.set_viewport_size({"width": width, "height": 900})
        more = row(page, "good").locator(".more button")
        if more.is_visible() and more.get_attribute("aria-expanded") == "false":
            more.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        button = row(page, "good").locator("button[data-order=switch]").bounding_box()
        assert button is not None
        assert button["x"] + button["width"] <= width


def test_the_timeline_is_drawn(page: Page, llmux: Llmux, complaints: Complaints) -> None:
    """The colour of `awake` is on the canvas once a model is, and its story is told where the pointer is."""
    complaints.expected.append("getImageData")  # advice to whoever reads pixels as often as this test
    awake = """() => {
        const probe = document.createElement('span');
        document.body.append(probe);
        probe.style.color = 'var(--awake)';
        const [r, g, b] = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
        probe.remove();
        const canvas = document.querySelector('#timeline canvas');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        let found = 0;
        for (let i = 0; i < data.length; i += 4) found += data[i] === r && data[i + 1] === g && data[i + 2] === b;
        return found;
    }"""
    httpx.post(f"{llmux.url}/admin/v1/models/good/switch", timeout=DEADLINE)
    page.locator("#timeline canvas").focus()
    for _ in range(4):
        page.keyboard.press("+")  # down to half a minute, where a second is wide enough to be pointed at
    page.wait_for_function(f"({awake})() > 100")
    for _ in range(20):
        page.keyboard.press("-")
    page.keyboard.press("ArrowLeft")  # days before there was an llmux
    page.wait_for_function(f"({awake})() === 0")
    page.keyboard.press("End")
    for _ in range(20):
        page.keyboard.press("+")
    box = page.locator("#timeline canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 26 + 12)
    expect(page.locator(".tip")).to_contain_text("good: awake")


def test_it_says_when_it_is_cut_off_and_comes_back(page: Page, llmux: Llmux, complaints: Complaints) -> None:
    complaints.expected += [
        "ERR_CONNECTION_REFUSED",
        "ERR_CONNECTION_RESET",
        "ERR_INCOMPLETE_CHUNKED_ENCODING",
        "ERR_EMPTY_RESPONSE",
    ]
    order(page, "good", "switch")
    expect(state(page, "good")).to_have_text("awake")
    llmux.kill()
    expect(page.locator("#connection")).to_contain_text("connection lost")
    expect(page.locator("#connection")).to_contain_text("trying again")
    expect(page.locator("#readiness")).to_have_text("ready when last heard")
    llmux.start()
    expect(page.locator("#connection")).to_have_attribute("data-kind", "live")
    expect(state(page, "good")).to_have_text("asleep")
    expect(page.locator("#switches-rows tr")).to_have_count(0)  # it is another llmux, and knows of none
    expect(page.locator("#notices .bad")).to_have_count(0)


@pytest.fixture
def guarded(llmux: Llmux, tmp_path: Path) -> Iterator[Llmux]:
    """As `llmux`, but with keys."""
    config = yaml.safe_load((llmux.folder / "config.yaml").read_text())
    config["admin_keys"] = {"operator": {"key": "admin-secret"}}
    config["api_keys"] = {"client": {"key": "api-secret"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "config.yaml").chmod(0o600)
    made = Llmux(tmp_path)
    made.start()
    yield made
    made.kill()


def test_keys_are_asked_for_and_kept_in_this_tab(browser: Browser, guarded: Llmux, complaints: Complaints) -> None:
    context = browser.new_context()
    page = context.new_page()
    shown: dict[str, set[str | None]] = {}
    page.on("console", complaints.console)
    page.on(
        "request",
        lambda request: shown.setdefault(request.url.split("/")[3], set()).add(request.headers.get("authorization")),
    )
    page.goto(f"{guarded.url}/ui/")
    why = page.locator("#keys-why")
    expect(why).to_contain_text("This needs an admin key")
    expect(page.locator("#keys-admin")).to_be_focused()
    expect(page.locator("#readiness")).to_have_text("a key is needed")
    expect(page.locator("#playground-status")).to_contain_text("need an API key")
    assert complaints.heard == []  # the page knew before it asked
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(why).to_be_visible()
    page.locator("#keys-admin").fill("admin-secret")
    page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_have_attribute("data-kind", "live")
    expect(page.locator("#alarm")).to_be_hidden()
    order(page, "good", "switch")
    expect(state(page, "good")).to_have_text("awake")
    expect(page.locator("#playground-status")).to_contain_text("need an API key")
    page.keyboard.press("k")
    page.locator("#keys-api").fill("api-secret")
    page.keyboard.press("Enter")
    expect(write(page, "good", "hello").locator(".said")).to_contain_text("heard: hello")
    assert shown["admin"] == {"Bearer wrong", "Bearer admin-secret"}
    assert shown["v1"] == {"Bearer api-secret"}  # the admin key never goes to a model
    assert shown["ui"] == {None}
    page.reload()
    expect(page.locator("#connection")).to_have_attribute("data-kind", "live")
    assert "secret" not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
    other = context.new_page()
    before = len(complaints.heard)
    other.on("console", complaints.console)
    other.goto(f"{guarded.url}/ui/")
    expect(other.locator("#keys-why")).to_be_visible()  # another tab has no key
    assert len(complaints.heard) == before
    context.close()


def test_without_admin_keys_others_are_told_so(browser: Browser, llmux: Llmux, complaints: Complaints) -> None:
    """As if it were from another machine: under a name that llmux knows, but that need not mean this one."""
    context = browser.new_context()
    page = context.new_page()
    page.on("console", complaints.console)
    page.goto(f"http://{ELSEWHERE}:{llmux.port}/ui/")
    expect(page.locator("#alarm")).to_contain_text("only this machine may use it")
    expect(page.locator("#keys")).to_be_hidden()  # no key would help
    expect(page.locator("#connection")).to_have_text("not connected")
    assert complaints.heard == []
    context.close()

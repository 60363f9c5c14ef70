from __future__ import annotations

import io

import pytest
from rich.console import Console

from llmux.demo.show import ask_block, curl_lines, switch_costs
from llmux.demo.story import DRAIN, FIRST_TOKEN, QUEUE, SLEEP, TOKENS, WAKE, HookRun, Story
from llmux.messages import (
    Grant,
    Hook,
    HookEnded,
    ModelState,
    Outcome,
    RunHook,
    StateChanged,
    SwitchEnded,
    SwitchStarted,
)


@pytest.fixture
def story() -> Story:
    return Story(["smollm2", "gemma3"])


def play_a_switch(story: Story) -> None:
    """gemma3 is asked at 10 s while smollm2 is busy."""
    story.watch(10.5, SwitchStarted(1, "smollm2", "gemma3", ("smollm2",), ("default",)))
    story.watch(11.5, RunHook(1, "smollm2", Hook.SLEEP, 120.0, from_model="smollm2", to_model="gemma3"))
    story.watch(11.75, HookEnded(1, Outcome.OK, 0.25, 0))
    story.watch(11.75, RunHook(2, "gemma3", Hook.WAKE, 600.0, from_model="smollm2", to_model="gemma3"))
    story.watch(13.75, HookEnded(2, Outcome.OK, 2.0, 0))
    story.watch(13.75, StateChanged("gemma3", ModelState.WAKING, ModelState.AWAKE, "woken"))
    story.watch(13.75, SwitchEnded(1, "smollm2", "gemma3", "success", 3.25, 0.25, 2.0, 2.25))
    story.watch(13.75, Grant(7, "gemma3", 3.75, True))


def test_every_phase_of_a_request_is_timed(story: Story) -> None:
    ask = story.ask("gemma3", "Why?", 10.0)
    assert ask.seconds(10.25) == {QUEUE: 0.25}
    play_a_switch(story)
    story.received(ask, " Bec", None, 14.0)
    story.received(ask, "ause.", None, 15.0)
    story.received(ask, "", 11, 16.0)
    story.ended(ask, 16.0)
    assert ask.seconds(99.0) == {QUEUE: 0.5, DRAIN: 1.0, SLEEP: 0.25, WAKE: 2.0, FIRST_TOKEN: 0.25, TOKENS: 2.0}
    assert ask.text == "Because."
    assert ask.tokens_per_second == 5.0
    assert story.hooks == [
        HookRun("smollm2", Hook.SLEEP, 0.25, Outcome.OK),
        HookRun("gemma3", Hook.WAKE, 2.0, Outcome.OK),
    ]
    assert story.states == {"smollm2": ModelState.ASLEEP, "gemma3": ModelState.AWAKE}


def test_a_cold_start_has_neither_drain_nor_sleep(story: Story) -> None:
    ask = story.ask("smollm2", "Why?", 0.0)
    story.watch(0.0, SwitchStarted(1, None, "smollm2", (), ("default",)))
    story.watch(0.0, RunHook(1, "smollm2", Hook.WAKE, 600.0, to_model="smollm2"))
    assert ask.seconds(1.0) == {QUEUE: 0.0, WAKE: 1.0}


def test_an_awake_model_saves_the_middle_and_other_questions_are_left_alone(story: Story) -> None:
    other = story.ask("gemma3", "And you?", 0.0)
    ask = story.ask("smollm2", "Why?", 0.0)
    story.watch(0.5, Grant(1, "smollm2", 0.5, False))
    assert ask.seconds(1.0) == {QUEUE: 0.5, FIRST_TOKEN: 0.5}
    assert other.seconds(1.0) == {QUEUE: 1.0}


def test_an_unanswered_question_has_no_speed(story: Story) -> None:
    ask = story.ask("smollm2", "Why?", 0.0)
    story.ended(ask, 1.0, "503: it would not wake")
    assert ask.tokens_per_second is None
    assert not ask.waiting


def test_whoever_follows_is_told(story: Story) -> None:
    told: list[str] = []
    story.on_event = lambda kind, subject: told.append(kind)
    ask = story.ask("gemma3", "Why?", 10.0)
    play_a_switch(story)
    story.received(ask, "So.", 1, 14.0)
    story.ended(ask, 15.0)
    assert told == ["ask", "switch", "hook", "hook", "switch", "token", "answer"]


def rendered(what: object, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_question_shows_its_phases_its_speed_and_its_answer(story: Story) -> None:
    ask = story.ask("gemma3", "Why?", 10.0)
    play_a_switch(story)
    story.received(ask, "Because [of] it.", 11, 14.0)
    story.ended(ask, 16.0)
    title, bar, legend, answer, *_ = rendered(ask_block(ask, 99.0)).splitlines()
    assert title.split() == ["1", "gemma3", "Why?"]
    assert 44 <= bar.count("━") <= 52
    assert legend.strip().split("  ") == [
        "queue 0.50 s",
        "drain 1.00 s",
        "sleep 0.25 s",
        "wake 2.00 s",
        "first token 0.25 s",
        "11 tokens, 5/s",
    ]
    assert answer.strip() == "Because [of] it."


def test_on_a_narrow_terminal_the_phases_take_two_rows_and_none_is_torn_apart(story: Story) -> None:
    ask = story.ask("gemma3", "Why?", 10.0)
    play_a_switch(story)
    story.received(ask, "So.", 11, 14.0)
    story.ended(ask, 16.0)
    rows = [row.strip() for row in rendered(ask_block(ask, 99.0), 80).splitlines()]
    assert rows[2].endswith("first token 0.25 s")
    assert rows[3] == "11 tokens, 5/s"


def test_a_failed_question_shows_why(story: Story) -> None:
    ask = story.ask("gemma3", "Why?", 0.0)
    story.ended(ask, 1.0, "503: [it] would not wake")
    assert "503: [it] would not wake" in rendered(ask_block(ask, 1.0))


def test_only_what_was_measured_is_in_the_tables(story: Story) -> None:
    play_a_switch(story)
    shown = rendered(switch_costs(story, lambda source, target: 2.25 if (source, target) == ("a", "b") else None))
    assert "2.250" not in shown
    shown = rendered(switch_costs(story, lambda source, target: 2.25 if source == "smollm2" else None))
    assert [line.split() for line in shown.splitlines() if "2.250" in line] == [["smollm2", "gemma3", "2.250"]]
    assert ["gemma3", "wake", "1", "2.000", "s", "2.000", "s"] in [line.split() for line in shown.splitlines()]


def test_commands_to_copy_are_not_broken_by_a_narrow_terminal() -> None:
    shown = rendered(curl_lines(("127.0.0.1", 65535)), width=80)
    assert shown.count("curl -N http://127.0.0.1:65535/v1/chat/completions \\\n") == 2
    assert '"content": "Why do we sleep?"}]}\'\n' in shown

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from llmux.policy import Decision, FifoPolicy, Stay, View, load_policy, registry


class Lazy:
    """A policy of a third party."""

    name = "lazy"

    def __init__(self, patience: float = 1.0) -> None:
        self.patience = patience

    def decide(self, view: View, now: float) -> Decision:
        return Stay(now + self.patience)


class NoPolicy:
    pass


def test_built_in() -> None:
    assert isinstance(load_policy("fifo"), FifoPolicy)


def test_by_class_path_with_options() -> None:
    policy = load_policy(f"{__name__}:Lazy", {"patience": 7.0})
    assert isinstance(policy, Lazy)
    assert policy.patience == 7.0


def test_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("lazy", f"{__name__}:Lazy", registry.GROUP)
    monkeypatch.setattr(
        registry, "entry_points", lambda *, group, name: [entry] if (group, name) == (registry.GROUP, "lazy") else []
    )
    assert isinstance(load_policy("lazy"), Lazy)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fofi", {}, "no policy 'fofi': built in are break-even, .*fifo"),
        (
            "no_such_package:Policy",
            {},
            "No module named 'no_such_package'; install it, or have its folder in PYTHONPATH",
        ),
        ("llmux.no_such_module:Policy", {}, "No module named 'llmux.no_such_module'$"),
        (f"{__name__}:Missing", {}, "cannot be imported"),
        (f"{__name__}:Lazy", {"speed": 1}, "could not be made: .*speed"),
        (f"{__name__}:NoPolicy", {}, "is no policy"),
        ("fifo", {"speed": 1}, "could not be made"),
    ],
)
def test_what_cannot_be_made_says_why(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_policy(name, options)

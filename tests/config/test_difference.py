"""What two configurations differ in."""

from __future__ import annotations

from typing import Any

from llmux.config import Config, ModelConfig, PolicyConfig, TlsConfig, as_started, difference


def model(**more: Any) -> ModelConfig:
    return ModelConfig(**{"port": 8001, "wake": "w", "sleep": "s", "alive": "a", **more})


def test_nothing() -> None:
    same = difference(Config(models={"a": model()}), Config(models={"a": model()}))
    assert (same.added, same.removed, same.changed, same.at_start, same.policy) == ((), (), (), (), False)


def test_everything() -> None:
    old = Config(models={"a": model(), "b.c": model(), "gone": model()}, port=3000, event_log="x")
    new = Config(
        models={"new": model(), "b.c": model(wake="other", aliases=["x"]), "a": model()},
        policy=PolicyConfig(name="priority", ageing_secs=9.0),
        max_queue=7,
        port=4000,
        state_dir="s",
    )
    found = difference(old, new)
    assert found.added == ("new",)
    assert found.removed == ("gone",)
    assert found.changed == (
        "max_queue",
        "policy.name",
        "policy.ageing_secs",
        'models."b.c".wake',
        'models."b.c".aliases',
    )
    assert found.at_start == ("port", "event_log", "state_dir")
    assert found.policy
    kept = as_started(old, new)
    assert (kept.port, kept.event_log, kept.state_dir, kept.max_queue) == (3000, "x", None, 7)
    assert difference(kept, new).at_start == found.at_start  # said again each time


def test_a_policy_is_made_anew_for_its_options_and_for_other_models() -> None:
    old = Config(models={"a": model()})
    assert difference(old, Config(models={"a": model(), "b": model()})).policy
    assert difference(old, Config(models={"a": model()}, policy=PolicyConfig(min_active_secs=1))).policy
    assert not difference(old, Config(models={"a": model(sleep="x")})).policy


def test_tls_counts_at_once_where_there_was_tls_and_at_the_next_start_where_it_comes_or_goes() -> None:
    plain = Config(models={"a": model()})
    one = plain.model_copy(update={"tls": TlsConfig(cert="one.pem", key="key.pem")})
    other = plain.model_copy(update={"tls": TlsConfig(cert="other.pem", key="key.pem")})
    assert (difference(one, other).changed, difference(one, other).at_start) == (("tls",), ())
    assert as_started(one, other).tls == other.tls
    for old, new in ((plain, one), (one, plain)):
        assert (difference(old, new).changed, difference(old, new).at_start) == ((), ("tls",))
        assert as_started(old, new).tls == old.tls

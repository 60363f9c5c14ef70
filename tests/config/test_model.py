"""The configuration from Python: keyword arguments, defaults, and what follows from them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llmux.addresses import BackendAddress
from llmux.config import Config, HookTimeouts, ModelConfig, ModelHookTimeouts, PolicyConfig, RelayTimeouts
from llmux.config.policy import BUILT_IN_POLICIES
from llmux.messages import Hook
from llmux.policy.registry import BUILT_IN, load_policy

HOOKS: dict[str, Any] = {"wake": "true", "sleep": "true", "alive": "true"}


def model(**more: Any) -> ModelConfig:
    return ModelConfig(**({"port": 8001} | HOOKS | more))


def test_defaults() -> None:
    config = Config(models={"a": model()})
    assert (config.host, config.port) == ("127.0.0.1", 3000)
    assert config.policy == PolicyConfig(
        name="break-even", request_timeout_secs=None, drain_before_switch=True, min_active_secs=0, options={}
    )
    assert config.trusted_proxies == []
    assert config.devices is None
    assert config.hook_timeout_secs == HookTimeouts(wake=600, sleep=120, alive=10)
    assert config.drain_timeout_secs == 300
    assert config.alive_interval_secs == 15
    assert config.max_body_bytes == 100 * 2**20
    assert config.max_queue == 10_000
    assert config.shutdown_grace_secs == 30
    assert config.on_exit == "leave"
    assert config.timeouts_secs == RelayTimeouts(
        keep_alive=75, head=15, body=120, connect=5, response=600, between_bytes=300, write=60
    )
    assert config.base_dir is None
    assert config.hook_cwd("a", Hook.WAKE) is None
    assert config.warnings == []


def test_a_configuration_may_have_no_models() -> None:
    assert Config(models={}).names() == {}


def test_nothing_changes_later() -> None:
    config = Config(models={"a": model()})
    with pytest.raises(ValidationError, match="frozen"):
        config.port = 1
    assert config.model_copy(update={"port": 4000}).port == 4000


@pytest.mark.parametrize(
    ("where", "address"),
    [
        ({"port": 8001}, BackendAddress(host="127.0.0.1", port=8001)),
        ({"url": "http://gpu:9000/base/"}, BackendAddress(host="gpu", port=9000, base="/base")),
        ({"url": "https://gpu"}, BackendAddress(host="gpu", port=443, tls=True)),
        ({"url": "unix:/run/m.sock"}, BackendAddress(unix_path="/run/m.sock")),
    ],
)
def test_addresses(where: dict[str, Any], address: BackendAddress) -> None:
    assert ModelConfig(**where, **HOOKS).address == address


@pytest.mark.parametrize("where", [{}, {"port": 1, "url": "http://x"}, {"url": "ftp://x"}, {"url": "http://x:0"}])
def test_a_model_has_one_address(where: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="url"):
        ModelConfig(**where, **HOOKS)


def test_scripts_by_hook() -> None:
    scripts = model(wake="w", sleep="s", alive="a")
    assert [scripts.script(hook) for hook in (Hook.WAKE, Hook.SLEEP, Hook.ALIVE)] == ["w", "s", "a"]


def test_a_model_overrides_single_deadlines() -> None:
    config = Config(
        models={
            "plain": model(),
            "slow": model(hook_timeout_secs=ModelHookTimeouts(wake=1800), drain_timeout_secs=None),
            "endless": model(hook_timeout_secs={"wake": None}, drain_timeout_secs=0.5),
        },
        hook_timeout_secs=HookTimeouts(wake=60, sleep=None),
        drain_timeout_secs=20,
    )
    assert [config.hook_timeout(name, Hook.WAKE) for name in config.models] == [60, 1800, None]
    assert [config.hook_timeout(name, Hook.SLEEP) for name in config.models] == [None, None, None]
    assert [config.hook_timeout(name, Hook.ALIVE) for name in config.models] == [10, 10, 10]
    assert [config.drain_timeout(name) for name in config.models] == [20, None, 0.5]


def test_names_and_aliases() -> None:
    config = Config(models={"a": model(aliases=["x", "y/z"]), "b": model()})
    assert config.names() == {"a": "a", "b": "b", "x": "a", "y/z": "a"}


def test_placements_without_devices() -> None:
    assert Config(models={"a": model()}).placements("a") is None


def test_placements_on_devices() -> None:
    config = Config(
        devices={"small": "8GiB", "large": 24 * 2**30},  # type: ignore[dict-item]  # sizes are read from text
        models={
            "anywhere": model(needs="6 GiB"),
            "large only": model(needs="10GiB"),
            "both": model(needs={"small": 1000, "large": "1KB"}),
            "nothing": model(needs={}),
            "alone": model(),
        },
    )
    six, ten = 6 * 2**30, 10 * 2**30
    assert [config.placements(name) for name in config.models] == [
        ({"small": six}, {"large": six}),
        ({"large": ten},),
        ({"small": 1000, "large": 1000},),
        ({},),
        ({"small": 8 * 2**30, "large": 24 * 2**30},),
    ]


def test_faults_of_the_whole_are_validation_errors_with_a_place() -> None:
    with pytest.raises(ValidationError) as caught:
        Config(models={"a": model(aliases=["b"], needs=1), "b": model()})
    assert [(error["loc"], error["msg"]) for error in caught.value.errors()] == [
        (("models", "a", "aliases", 0), "'b' is the name of another model"),
        (
            ("models", "a", "needs"),
            "means nothing without devices: declare them at the top level, as in `devices: {gpu0: 24GiB}`",
        ),
    ]


def test_very_long_durations_are_kept_within_what_a_clock_can_count() -> None:
    assert PolicyConfig(request_timeout_secs=2.0**64).request_timeout_secs == 1e9


# --- policies ----------------------------------------------------------------------------------------------------


def test_the_built_in_policies_are_those_that_there_are() -> None:
    assert set(BUILT_IN_POLICIES) == set(BUILT_IN)


def test_keys_of_other_policies_become_their_options() -> None:
    policy = PolicyConfig.model_validate(
        {"name": "my_package.policies:Mine", "weight": 2, "options": {"depth": 3}, "min_active_secs": 1}
    )
    assert policy.options == {"weight": 2, "depth": 3}
    assert policy.min_active_secs == 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_options_of_built_in_policies_are_their_arguments(name: str) -> None:
    taken = inspect.signature(BUILT_IN[name]).parameters
    assert set(BUILT_IN_POLICIES[name]) == set(taken)
    defaults = PolicyConfig()
    for option, parameter in taken.items():
        assert (getattr(defaults, option) or None) == parameter.default
    load_policy(name, PolicyConfig(name=name).arguments())


def test_options_of_built_in_policies() -> None:
    policy = PolicyConfig(name="priority", levels={"a": 2}, max_wait_secs=60, min_active_secs=1)
    assert policy.arguments() == {"levels": {"a": 2.0}, "max_wait_secs": 60.0}
    assert PolicyConfig(name="break-even").arguments() == {}
    assert PolicyConfig.model_validate({"name": "a.b:C", "quantum": "much"}).arguments() == {"quantum": "much"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "fifo", "max_wait_secs": 5}, "is not an option of the policy fifo; its options are: none"),
        ({"quantum": 5}, "is not an option of the policy break-even; its options are: max_wait_secs, patience"),
        ({"name": "round-robin", "patience": 1}, "its options are: max_wait_secs, quantum"),
        ({"name": "break-even", "patience": -1}, "greater than or equal to 0"),
        ({"name": "priority", "ageing_secs": 0}, "greater than 0"),
        ({"name": "priority", "levels": {"a": "high"}}, "valid number"),
        ({"name": "break-even", "weight": 2}, "weight"),
    ],
)
def test_wrong_options_of_built_in_policies(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PolicyConfig.model_validate(data)


def test_preloaded_models_are_those_that_there_are_each_once() -> None:
    with pytest.raises(ValidationError, match=r"preload.1\n  unknown model 'lama'; did you mean 'llama'"):
        Config(models={"llama": model()}, preload=["llama", "lama"])
    with pytest.raises(ValidationError, match="is there twice"):
        Config(models={"llama": model()}, preload=["llama", "llama"])


def test_seconds_of_a_model_go_before_those_of_all() -> None:
    models = {"a": model(), "b": model(idle_sleep_secs=0, waiting_keepalive_secs=2.5)}
    config = Config(models=models, idle_sleep_secs=60)
    assert (config.idle_sleep("a"), config.idle_sleep("b")) == (60.0, 0.0)
    assert (config.waiting_keepalive("a"), config.waiting_keepalive("b")) == (10.0, 2.5)


def test_levels_are_those_of_models_that_there_are() -> None:
    policy = PolicyConfig(name="priority", levels={"lama": 1})
    with pytest.raises(ValidationError, match="unknown model; did you mean 'llama'"):
        Config(models={"llama": model()}, policy=policy)


def test_built_in_policies_have_no_options_of_their_own_making() -> None:
    with pytest.raises(ValidationError, match="the policy break-even is built in"):
        PolicyConfig(options={"weight": 2})
    with pytest.raises(ValidationError, match="weight"):
        PolicyConfig.model_validate({"weight": 2})


@pytest.mark.parametrize("name", ["fif", "", "a:b:c", "a b:C", ":C", "a:", "1a:C"])
def test_unknown_policies(name: str) -> None:
    with pytest.raises(ValidationError, match="unknown policy"):
        PolicyConfig(name=name)


def test_a_policy_installed_as_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llmux.policies]\nfairest = theirs:Fairest\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert PolicyConfig.model_validate({"name": "fairest", "share": 1}).options == {"share": 1}
    with pytest.raises(ValidationError, match="did you mean 'fairest'"):
        PolicyConfig(name="fairset")


def test_a_verify_hook_and_its_deadline() -> None:
    config = Config(
        models={"a": model(verify="v"), "b": model(hook_timeout_secs={"verify": 5}), "c": model()},
        hook_timeout_secs=HookTimeouts(verify=None),
    )
    assert [config.models[name].script(Hook.VERIFY) for name in "abc"] == ["v", None, None]
    assert [config.hook_timeout(name, Hook.VERIFY) for name in "abc"] == [None, 5, None]
    assert Config(models={"a": model()}).hook_timeout("a", Hook.VERIFY) == 60


def test_a_canary() -> None:
    plain, none = model(canary=True).canary, model(canary=False).canary
    assert none is None
    assert plain is not None
    assert plain == model(canary={}).canary
    assert (plain.path, plain.timeout_secs) == ("/v1/chat/completions", 60)
    question = {"role": "user", "content": "Hi"}
    assert json.loads(plain.request_body("m")) == {"model": "m", "messages": [question], "max_tokens": 1}
    own = model(canary={"path": "/score", "body": {"model": "other", "text": "x"}}).canary
    assert own is not None
    assert json.loads(own.request_body("m")) == {"model": "other", "text": "x"}


def test_what_the_canary_asks_each_known_path() -> None:
    for path in ("/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"):
        canary = model(canary={"path": path}).canary
        assert canary is not None
        assert json.loads(canary.request_body("m"))["model"] == "m"


@pytest.mark.parametrize(
    ("canary", "message"),
    [
        (5, "must be true, false or a mapping"),
        ("yes please", "must be true, false or a mapping"),
        ({"path": "v1/x"}, "must begin with /"),
        ({"path": "/a b"}, "must begin with /"),
        ({"path": "/x\r\nHost: y"}, "must begin with /"),
        ({"path": "/x"}, "needs a `body`"),
        ({"body": {"x": float("nan")}}, "must be JSON"),
        ({"body": {"x": "y" * 70_000}}, "no larger than 65536 bytes"),
        ({"headers": {"Content-Length": "5"}}, "set by llmux itself"),
        ({"headers": {"a b": "5"}}, "cannot be the name of a header"),
        ({"headers": {"a": "5\r\nb: c"}}, "visible ASCII"),
        ({"timeout_secs": 0}, "greater than 0"),
    ],
)
def test_canaries_that_cannot_be(canary: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model(canary=canary)


def test_the_headers_of_a_canary_are_not_shown() -> None:
    assert "s3cret" not in repr(Config(models={"a": model(canary={"headers": {"Authorization": "Bearer s3cret"}})}))


def test_when_a_backend_is_in_doubt() -> None:
    models = {"plain": model(), "canary": model(canary=True)}
    assert [Config(models=models).doubt_after(name) for name in models] == [None, 5]
    assert [Config(models=models, doubt_after_failures=2).doubt_after(name) for name in models] == [2, 2]


@pytest.mark.parametrize("text", ["10.0.0.0/8", "::1", "192.168.1.7", "fd00::/8"])
def test_trusted_proxies_are_networks(text: str) -> None:
    assert Config(models={}, trusted_proxies=[text]).trusted_proxies == [text]


@pytest.mark.parametrize("text", ["proxy.test", "10.0.0.1/8", "10.0.0.0/33", "*", ""])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match=r"must be an IP address, or a network such as 10\.0\.0\.0/8"):
        Config(models={}, trusted_proxies=[text])

"""The ``policy`` section: which policy decides, its options, and what holds for all of them."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from typing import Any

from pydantic import ConfigDict, Field, StrictBool, ValidationInfo, field_validator, model_validator

from llmux.config.checks import did_you_mean
from llmux.config.fields import Duration, Limit, Name, NotNegative, Number, Section

#: The built-in policies, each with the keys of the `policy` section that are its own options.
BUILT_IN_POLICIES = {
    "break-even": ("max_wait_secs", "patience", "linger"),
    "fifo": (),
    "drain-first": ("max_wait_secs",),
    "priority": ("max_wait_secs", "levels", "ageing_secs"),
    "round-robin": ("max_wait_secs", "quantum"),
}
DEFAULT_POLICY = "break-even"
PRIORITY_POLICY = "priority"
"""The only built-in policy that goes by the `priority` of models."""
_BUILT_IN_OPTIONS = frozenset(option for options in BUILT_IN_POLICIES.values() for option in options)
POLICY_GROUP = "llmux.policies"
_POLICY_CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def _policy_schema(schema: dict[str, Any]) -> None:
    """A built-in policy's options are described for that policy only: others may give these names another meaning."""
    del schema["additionalProperties"]
    own = {name: schema["properties"].pop(name) for name in sorted(_BUILT_IN_OPTIONS)}
    schema["allOf"] = [
        {
            "if": {"properties": {"name": {"const": policy}}}
            | ({} if policy == DEFAULT_POLICY else {"required": ["name"]}),
            "then": {
                "propertyNames": {"enum": [*schema["properties"], *options]},
                "properties": {name: own[name] for name in options},
            },
        }
        for policy, options in BUILT_IN_POLICIES.items()
    ]


class PolicyConfig(Section):
    """When to switch, and to which model. Keys that are not listed here go to a policy that is not built in."""

    model_config = ConfigDict(json_schema_extra=_policy_schema)

    name: str = Field(
        default=DEFAULT_POLICY,
        description="The policy: `break-even` (switch once that costs less than staying), `fifo` (the model whose "
        "oldest request waits longest is next), `round-robin`, `drain-first`, `priority`, the name of an installed "
        "entry point of the group llmux.policies, or package.module:Class. Default: break-even.",
        examples=["break-even", "fifo", "my_package.policies:MyPolicy"],
    )
    request_timeout_secs: Duration | None = Field(
        default=None,
        description="Longest time, in seconds, that a request waits for its model. null = no limit. Default: null.",
        examples=[300],
    )
    drain_before_switch: StrictBool = Field(
        default=True,
        description="Let requests in flight end before their model is put to sleep. Default: true.",
    )
    min_active_secs: Duration = Field(
        default=0.0,
        description="Seconds that a model keeps serving, at least, before it may be put to sleep for another one. "
        "Default: 0.",
        examples=[5],
    )
    options: dict[str, Any] = Field(
        default={},
        description="Options of a policy that is not built in; its other keys are added to them. Default: none.",
        examples=[{"weight": 2}],
    )
    max_wait_secs: Duration | None = Field(
        default=None,
        description="Options of all built-in policies but fifo: seconds after which a waiting request's model goes "
        "first. null = derived from what switches take. Default: null.",
        examples=[60],
    )
    patience: NotNegative = Field(
        default=0.75,
        description="Option of break-even: with more of it, the awake model is kept longer. Default: 0.75.",
        examples=[1.5],
    )
    linger: NotNegative = Field(
        default=1.0,
        description="Option of break-even: how much an idle model in demand waits for requests to come together before "
        "it gives way. 0 = not at all. Default: 1.",
        examples=[0],
    )
    quantum: NotNegative = Field(
        default=2.0,
        description="Option of round-robin: length of a model's turn, in costs of the switch that ends it. Default: 2.",
        examples=[4],
    )
    levels: dict[Name, Number] = Field(
        default={},
        description="Option of priority: the level of each model, higher ones first; a model that is not named has its "
        "own `priority`. Default: none.",
        examples=[{"llama": 2}],
    )
    ageing_secs: Limit = Field(
        default=30.0,
        description="Option of priority: seconds of waiting that raise a model by one level. Default: 30.",
        examples=[60],
    )

    @model_validator(mode="before")
    @classmethod
    def _collect_options(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("name", DEFAULT_POLICY) in [*BUILT_IN_POLICIES]:
            return data
        options = data.get("options", {})
        common = cls.model_fields.keys() - _BUILT_IN_OPTIONS
        extra = {key: value for key, value in data.items() if key not in common}
        if not extra or not isinstance(options, dict):
            return data
        return {key: data[key] for key in data if key not in extra} | {"options": options | extra}

    @field_validator("name")
    @classmethod
    def _check_policy(cls, name: str) -> str:
        if name in BUILT_IN_POLICIES or _POLICY_CLASS.fullmatch(name):
            return name
        known = [*BUILT_IN_POLICIES, *(entry.name for entry in entry_points(group=POLICY_GROUP))]
        if name in known:
            return name
        raise ValueError(f"unknown policy {name!r}{did_you_mean(name, known)} (or name a package.module:Class)")

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if options and info.data.get("name") in BUILT_IN_POLICIES:
            raise ValueError(f"the policy {info.data['name']} is built in: its options are keys of `policy` itself")
        return options

    @field_validator(*sorted(_BUILT_IN_OPTIONS))
    @classmethod
    def _check_option(cls, value: Any, info: ValidationInfo) -> Any:
        policy = info.data.get("name")
        if policy in BUILT_IN_POLICIES and info.field_name not in BUILT_IN_POLICIES[policy]:
            known = ", ".join(BUILT_IN_POLICIES[policy]) or "none"
            raise ValueError(f"is not an option of the policy {policy}; its options are: {known}")
        return value

    def arguments(self) -> dict[str, Any]:
        """What the policy is made with, by keyword: its own options, as far as they are given."""
        own = {
            name: getattr(self, name) for name in BUILT_IN_POLICIES.get(self.name, ()) if name in self.model_fields_set
        }
        return {**self.options, **own}

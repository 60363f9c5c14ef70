"""The sections of the configuration that are nothing but deadlines."""

from __future__ import annotations

from pydantic import Field

from llmux.config.fields import Limit, Section, without_default


class HookTimeouts(Section):
    """How long hooks may run, in seconds; then their whole process group is ended by force. `null`: no limit."""

    wake: Limit | None = Field(default=600.0, description="Seconds a wake hook may run. null = no limit. Default: 600.")
    sleep: Limit | None = Field(
        default=120.0, description="Seconds a sleep hook may run. null = no limit. Default: 120."
    )
    alive: Limit | None = Field(
        default=10.0, description="Seconds an alive hook may run. null = no limit. Default: 10."
    )
    verify: Limit | None = Field(
        default=60.0,
        description="Seconds in which the memory must be free after a sleep hook has succeeded, all runs of the verify "
        "hook together. null = no limit. Default: 60.",
    )


class ModelHookTimeouts(Section):
    """How long this model's hooks may run, in seconds, where that differs from the top level. `null`: no limit."""

    wake: Limit | None = Field(
        default=None,
        description="Seconds this model's wake hook may run. null = no limit. Default: as at the top level.",
        json_schema_extra=without_default,
    )
    sleep: Limit | None = Field(
        default=None,
        description="Seconds this model's sleep hook may run. null = no limit. Default: as at the top level.",
        json_schema_extra=without_default,
    )
    alive: Limit | None = Field(
        default=None,
        description="Seconds this model's alive hook may run. null = no limit. Default: as at the top level.",
        json_schema_extra=without_default,
    )
    verify: Limit | None = Field(
        default=None,
        description="Seconds in which this model's memory must be free after its sleep hook. null = no limit. "
        "Default: as at the top level.",
        json_schema_extra=without_default,
    )


class RelayTimeouts(Section):
    """Deadlines of the relay, in seconds, one for each phase of a request. `null`: no limit."""

    keep_alive: Limit | None = Field(
        default=75.0,
        description="Seconds a client's connection may idle between two requests. null = no limit. Default: 75.",
    )
    head: Limit | None = Field(
        default=15.0,
        description="Seconds in which a request's head must have arrived, once it has begun. null = no limit. "
        "Default: 15.",
    )
    body: Limit | None = Field(
        default=120.0,
        description="Seconds in which a request's body must have arrived, once its head has. null = no limit. "
        "Default: 120.",
    )
    connect: Limit | None = Field(
        default=5.0, description="Seconds that connecting to a backend may take. null = no limit. Default: 5."
    )
    response: Limit | None = Field(
        default=600.0,
        description="Seconds in which a backend must begin to answer. A long answer that is not streamed begins when "
        "it is complete. null = no limit. Default: 600.",
    )
    between_bytes: Limit | None = Field(
        default=300.0,
        description="Seconds a backend may be silent in the middle of an answer. null = no limit. Default: 300.",
    )
    write: Limit | None = Field(
        default=60.0,
        description="Seconds a peer may refuse to take any byte that llmux has for it. null = no limit. Default: 60.",
    )

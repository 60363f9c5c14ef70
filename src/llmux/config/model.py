"""The section `models.<name>` of the configuration: one model, where its backend is, and its hooks.

The data, with defaults and units; what the configuration as a whole makes of it is in `llmux.config.config`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StrictBool, StrictInt, ValidationInfo, field_validator

from llmux.addresses import BackendAddress
from llmux.config.canary import CanaryConfig
from llmux.config.fields import (
    Aliases,
    Duration,
    Name,
    Needs,
    Number,
    Script,
    Section,
    or_true,
    without_default,
)
from llmux.config.shaping import KeepAliases, Metadata, SetParams, StripParams
from llmux.config.timeouts import ModelHookTimeouts
from llmux.messages import Hook


class ModelConfig(Section):
    """One model: where its backend listens, and the hooks that start, stop and check it.

    A hook is a shell script, run as `sh -c <script>` in the folder of the configuration file, with `LLMUX_MODEL` and
    `LLMUX_HOOK` in its environment. In YAML, a hook (like every text) may be any scalar: `alive: true` runs `true`.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["port"]}, {"required": ["url"]}],
            "examples": [
                {
                    "port": 8001,
                    "wake": "./scripts/wake-llama.sh",
                    "sleep": "./scripts/sleep-llama.sh",
                    "alive": "curl -sf http://localhost:8001/health",
                }
            ],
        },
    )

    port: Annotated[StrictInt, Field(ge=1, le=65535)] | None = Field(
        default=None,
        description="Port on 127.0.0.1 at which the backend listens. Either this or `url` is required. Several models "
        "may share a port (as with Ollama).",
        examples=[8001],
        json_schema_extra=without_default,
    )
    url: str | None = Field(
        default=None,
        description="Where the backend listens, if not on a port of 127.0.0.1: http://host:port, https://host, either "
        "with a path that is put before every request's, or unix:/path/to/socket. Either this or `port` is required. "
        "The wake hook may tell another one: LLMUX_BACKEND_FILE.",
        examples=["http://10.0.0.7:8000", "https://gpu.example.org/llama", "unix:/run/llama.sock"],
        validate_default=True,  # the validator below must see that it is missing
        json_schema_extra=without_default,
    )
    wake: Script = Field(
        description="Script that brings the model up. Exit 0 = ready to serve. It may be run when the model is up "
        "already. Required.",
        examples=["./scripts/wake-llama.sh"],
    )
    sleep: Script = Field(
        description="Script that frees what the model holds. Exit 0 = its memory is free. Required.",
        examples=["./scripts/sleep-llama.sh"],
    )
    alive: Script = Field(
        description="Script that checks the model. Exit 0 = healthy. Required.",
        examples=["curl -sf http://localhost:8001/health"],
    )
    verify: Script | None = Field(
        default=None,
        description="Script that checks, after `sleep` has succeeded, that the memory of the model is free. Exit 0 = "
        "it is; anything else is asked again until `hook_timeout_secs.verify` has passed. Nobody is woken in that "
        "memory before. null = the exit of `sleep` is believed. Default: null.",
        examples=["./scripts/gpu-is-free.sh"],
        json_schema_extra=without_default,
    )
    canary: CanaryConfig | None = Field(
        default=None,
        description="Ask the model for one token after each wake: unless that is answered, it is put to sleep and "
        "woken once more, and then reported. Nobody is served before. `true`, or a mapping that says what to ask. "
        "null or `false` = the exit of `wake` is believed. Default: null.",
        examples=[True, {"path": "/v1/embeddings"}],
        json_schema_extra=or_true,
    )
    aliases: Aliases = Field(
        default=[],
        description="Other names under which clients may ask for this model. Default: none.",
        examples=[["gpt-4o-mini", "default"]],
    )
    needs: Needs | None = Field(
        default=None,
        description="Memory that the model takes while awake: `{gpu0: 10GiB}` takes it on each device named; `10GiB` "
        "takes it on any one device that has room, and the hook finds its name in LLMUX_DEVICES; `{}` takes nothing. "
        "Only with `devices`. Default: all of every device, so that the model is awake alone.",
        examples=["10GiB", {"gpu0": "20GiB", "gpu1": "20GiB"}],
    )
    pinned: StrictBool = Field(
        default=False,
        description="Once awake, it stays awake: it is never put to sleep to make room for another model, only when an "
        "operator says so. Only with `devices`, and every other model must fit beside it. Default: false.",
        examples=[True],
    )
    idle_sleep_secs: Duration | None = Field(
        default=None,
        description="Seconds with nothing in flight and nobody waiting after which this model is put to sleep, unless "
        "it is pinned. 0 = never. Default: as at the top level.",
        examples=[1800],
        json_schema_extra=without_default,
    )
    priority: Number = Field(
        default=0.0,
        description="How important the model is to the policy `priority`: higher ones go first. `policy.levels` goes "
        "before it. Default: 0.",
        examples=[2],
    )
    hook_timeout_secs: ModelHookTimeouts | None = Field(
        default=None,
        description="Seconds that this model's hooks may run, where that differs from the top level. "
        "Default: as at the top level.",
        examples=[{"wake": 1800}],
    )
    drain_timeout_secs: Duration | None = Field(
        default=None,
        description="Seconds that requests in flight may take to end before this model is put to sleep. null = no "
        "limit. Default: as at the top level.",
        examples=[60],
        json_schema_extra=without_default,
    )
    forward_authorization: StrictBool | None = Field(
        default=None,
        description="Whether this model's backend gets the key that a client sent. Default: as at the top level.",
        examples=[True],
        json_schema_extra=without_default,
    )
    max_queue: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None,
        description="Most requests that may wait for this model at a time; one more is answered with 429. null = as "
        "many as the `max_queue` at the top level allows all models together. Default: null.",
        examples=[100],
    )
    max_in_flight: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None,
        description="Most requests that the model's backend gets at a time; more wait in llmux, oldest first, until "
        "one of those has ended. null = no limit. Default: null.",
        examples=[64],
    )
    waiting_keepalive_secs: Duration | None = Field(
        default=None,
        description="Seconds after which a streamed request that waits for this model gets its response's head, and a "
        "comment then and every so many seconds. 0 = never. Default: as at the top level.",
        examples=[0],
        json_schema_extra=without_default,
    )
    send_model_as: Name | None = Field(
        default=None,
        description="Put this name in the place of the request's `model`, in the body or in `?model=`, before the "
        "backend sees it. null = the model's own name takes the place of an alias (see `keep_aliases`), and is itself "
        "left as it is. Default: null.",
        examples=["meta-llama/Llama-3.1-8B-Instruct"],
    )
    keep_aliases: KeepAliases = False
    strip_params: StripParams = Field(default=[])
    set_params: SetParams = Field(default={})
    metadata: Metadata = Field(default={})

    @field_validator("canary", mode="before")
    @classmethod
    def _read_canary(cls, value: object) -> object:
        if isinstance(value, bool):
            return CanaryConfig() if value else None
        if value is None or isinstance(value, dict | CanaryConfig):
            return value
        raise ValueError("must be true, false or a mapping with any of path, body, headers and timeout_secs")

    @field_validator("url")
    @classmethod
    def _check_address(cls, url: str | None, info: ValidationInfo) -> str | None:
        port = info.data.get("port")
        if url is None:
            if port is None and "port" in info.data:
                raise ValueError("is missing: a model needs a `port` or a `url`")
            return None
        if port is not None:
            raise ValueError("must be left out: the model has a `port` already")
        BackendAddress.parse(url)
        return url

    @property
    def address(self) -> BackendAddress:
        """Where the backend listens."""
        return BackendAddress.local(self.port) if self.port is not None else BackendAddress.parse(self.url or "")

    def script(self, hook: Hook) -> str | None:
        """The script of one of the hooks; None for a verify hook that is not there, and for the canary, which is no
        script."""
        match hook:
            case Hook.WAKE:
                return self.wake
            case Hook.SLEEP:
                return self.sleep
            case Hook.ALIVE:
                return self.alive
            case Hook.VERIFY:
                return self.verify
            case Hook.CANARY:
                return None

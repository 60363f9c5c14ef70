"""The configuration's data: what may be said, its defaults and units. The JSON schema is made from this file.

Pydantic models, usable by keyword from Python and filled from a file by `llmux.config.loader`. Frozen. From Python, bad
arguments raise pydantic's `ValidationError`; from a file, every fault becomes a line of one `llmux.errors.ConfigError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from llmux.addresses import BackendAddress
from llmux.config.access import AdminKeyConfig, CorsConfig, HostName, KeyConfig, TlsConfig
from llmux.config.canary import CanaryConfig
from llmux.config.checks import Claim, Fault, did_you_mean, find_faults, placements
from llmux.config.fields import (
    Aliases,
    Devices,
    Duration,
    FileName,
    Name,
    Needs,
    NetworkName,
    Number,
    Script,
    Section,
    Size,
    or_true,
    without_default,
)
from llmux.config.policy import PolicyConfig
from llmux.config.secrets import empty_keys, pattern_faults
from llmux.config.shaping import DefaultModel, KeepAliases, Metadata, SetParams, StripParams
from llmux.config.timeouts import HookTimeouts, ModelHookTimeouts, RelayTimeouts
from llmux.config.tree import Location, Node, dotted
from llmux.errors import ConfigError
from llmux.messages import Hook

FAULT = "llmux_fault"

CANARY_DOUBT_AFTER = 5
"""What `doubt_after_failures` is for a model that can be asked whether it is the backend's fault."""


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
        "with a path that is put before every request's, or unix:/path/to/socket. Either this or `port` is required.",
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


class Config(Section):
    """The whole configuration.

    From Python, give the keys of the file as keyword arguments; `Config.from_file` reads a file. Every file of llmux
    2.4.0 keeps its meaning, unknown keys aside: those were ignored, and are errors now.
    """

    # What is wrong is told without what was given: that may be a key.
    model_config = ConfigDict(title="llmux configuration", hide_input_in_errors=True)

    models: dict[Name, ModelConfig] = Field(
        description="The models, by the name that clients use. A name may be any text without control characters; "
        "in YAML also a number, which is taken as it is written. Required.",
        examples=[
            {
                "llama": {
                    "port": 8001,
                    "wake": "./scripts/wake-llama.sh",
                    "sleep": "./scripts/sleep-llama.sh",
                    "alive": "curl -sf http://localhost:8001/health",
                }
            }
        ],
    )
    default_model: DefaultModel = None
    policy: PolicyConfig = Field(
        default=PolicyConfig(),
        description="When to switch, and to which model. Default: the policy break-even.",
        examples=[{"request_timeout_secs": 300, "min_active_secs": 5}],
        json_schema_extra=without_default,  # it would list the options of all policies
    )
    host: Annotated[str, Field(pattern=r"^[^\s/\[\]]+$")] = Field(
        default="127.0.0.1",
        description="Address to listen on. 0.0.0.0 or :: lets other machines in. Default: 127.0.0.1.",
        examples=["127.0.0.1", "0.0.0.0", "::1"],  # noqa: S104  # an example, not the default
    )
    port: Annotated[StrictInt, Field(ge=0, le=65535)] = Field(
        default=3000, description="Port to listen on. 0 = any free one. Default: 3000."
    )
    api_keys: dict[Name, KeyConfig] = Field(
        default={},
        description="Keys that open the models and the list of them, by the names that the log calls them. Clients "
        "send theirs as `Authorization: Bearer KEY` or `x-api-key: KEY`. Default: none, and nobody needs one.",
        examples=[{"alice": {"env": "LLMUX_KEY_ALICE"}, "ci": {"file": "keys/ci", "models": ["small"]}}],
    )
    admin_keys: dict[Name, AdminKeyConfig] = Field(
        default={},
        description="Keys that open the admin API, by the names that the log calls them; they open no models. Default: "
        "none, and only this machine may use the admin API.",
        examples=[{"ops": {"env": "LLMUX_ADMIN_KEY"}}],
    )
    forward_authorization: StrictBool = Field(
        default=False,
        description="Whether backends get the `Authorization` and `x-api-key` that clients sent, where `api_keys` are "
        "set. Without `api_keys` they always do. Default: false.",
    )
    metrics_need_key: StrictBool = Field(
        default=False,
        description="Whether `GET /metrics` wants a key, one of `api_keys` or of `admin_keys`. Default: false.",
    )
    tls: TlsConfig | None = Field(
        default=None,
        description="Speak TLS on the port, with this certificate. null = plain HTTP. Default: null.",
        examples=[{"cert": "tls/fullchain.pem", "key": "tls/privkey.pem"}],
        json_schema_extra=without_default,
    )
    allowed_hosts: list[HostName] | None = Field(
        default=None,
        description="Names that llmux answers to where no key is shown, without ports; `*.example.com` for all below, "
        "`*` for any. Addresses and localhost always are. null = `host`, the machine's own name and all names that the "
        "public DNS does not have: without a dot, or under .local, .lan, .internal, .home.arpa and the like. "
        "Default: null.",
        examples=[["llm.example.com", "*.svc.cluster.local"]],
    )
    cors: CorsConfig = Field(
        default=CorsConfig(),
        description="Pages of other sites that may use llmux from a browser. Default: none.",
        examples=[{"origins": ["https://chat.example.com"]}],
        json_schema_extra=without_default,
    )
    trusted_proxies: list[NetworkName] = Field(
        default=[],
        description="Addresses, or networks such as 10.0.0.0/8, of proxies in front of llmux. What they say in "
        "X-Forwarded-* fields is passed on, and their own address is added to X-Forwarded-For. From everybody else "
        "these fields are overwritten. Default: none.",
        examples=[["127.0.0.1", "10.0.0.0/8"]],
    )
    devices: Devices | None = Field(
        default=None,
        description="Memory of each device. Models whose `needs` fit together may be awake together. null = one model "
        "is awake at a time. Default: null.",
        examples=[{"gpu0": "24GiB", "gpu1": "24GiB"}],
    )
    hook_timeout_secs: HookTimeouts = Field(
        default=HookTimeouts(),
        description="Seconds that hooks may run before they are ended by force. null = no limit. "
        "Default: wake 600, sleep 120, alive 10, verify 60.",
        examples=[{"wake": 1800}],
    )
    idle_sleep_secs: Duration = Field(
        default=0.0,
        description="Seconds with nothing in flight and nobody waiting after which a model is put to sleep, unless it "
        "is pinned. 0 = never: it sleeps when another one needs its room. Default: 0.",
        examples=[1800],
    )
    preload: list[Name] = Field(
        default=[],
        description="Models that are woken when llmux starts, in this order, without a request and as far as they fit "
        "beside each other and beside what is awake already. Default: none.",
        examples=[["llama", "whisper"]],
    )
    drain_timeout_secs: Duration | None = Field(
        default=300.0,
        description="Seconds that requests in flight may take to end before a switch cuts them off. null = no limit. "
        "Default: 300.",
        examples=[60, None],
    )
    alive_interval_secs: Duration = Field(
        default=15.0,
        description="Seconds between two runs of an awake model's alive hook. 0 = never. Default: 15.",
    )
    doubt_after_failures: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None,
        description="Requests in a row that a backend may fail (a status from 500 up, a broken or silent answer) "
        "before its model is in doubt: `alive` is asked, then the `canary`. A model that has none, or fails it, is put "
        "to sleep and woken again. null = after 5 if the model has a `canary`, else never. Default: null.",
        examples=[10],
        json_schema_extra=without_default,
    )
    max_body_bytes: Size = Field(
        default=100 * 2**20,
        description="Largest request body, in bytes or as a size; a larger one is answered with 413. Default: 100MiB.",
        examples=["100MiB", 1048576],
    )
    max_buffered_bytes: Size = Field(
        default=2**30,
        description="Most bytes of requests that are held in memory at a time, in bytes or as a size: what has arrived "
        "of bodies and heads, until it is forwarded. Past it a request is answered with 503. Default: 1GiB.",
        examples=["4GiB"],
    )
    max_queue: Annotated[StrictInt, Field(ge=1)] = Field(
        default=10_000,
        description="Most requests that may wait at a time, for all models together; one more is answered with 429. "
        "Default: 10000.",
    )
    waiting_keepalive_secs: Duration = Field(
        default=10.0,
        description="Seconds after which a streamed request that waits for its model gets its response's head (status "
        "200), and a comment that says how long it will still take, then and every so many seconds, so that nothing on "
        "the way gives it up. What goes wrong after that is told by an event of the stream. 0 = never. Default: 10.",
        examples=[0],
    )
    shutdown_grace_secs: Duration = Field(
        default=30.0,
        description="Seconds that requests in flight may take to end once llmux is told to stop. Default: 30.",
    )
    on_exit: Literal["leave", "sleep"] = Field(
        default="leave",
        description="What becomes of awake models when llmux stops: `leave` them, or run their `sleep` hooks. "
        "Default: leave.",
    )
    access_log: StrictBool | FileName = Field(
        default=False,
        description="A line for every request that is over: who asked for what, how long it took, how it ended. A file "
        "has them as JSON (a relative path means the folder of the configuration file); `true` = they are events "
        "`request` of the log. No prompts, answers, queries or keys are in it. Default: false.",
        examples=["access.jsonl", True],
    )
    access_log_max_bytes: Size = Field(
        default=64 * 2**20,
        description="Size at which the access log's file is put aside (as `access.jsonl.1`) and begun anew, in bytes "
        "or as a size. Default: 64MiB.",
        examples=["64MiB"],
    )
    access_log_keep: Annotated[StrictInt, Field(ge=1, le=1000)] = Field(
        default=3, description="How many files of the access log that were put aside are kept. Default: 3."
    )
    tracing: StrictBool = Field(
        default=False,
        description="Whether OpenTelemetry traces of requests and switches are made, and the trace context of clients "
        "is taken up and passed on to backends. Needs the extra `otel`; the environment variables `OTEL_...` say "
        "where they are sent. Default: false.",
    )
    event_log: FileName | None = Field(
        default=None,
        description="File to which every event and decision of the scheduler is written, a JSON line each, for "
        "`llmux replay`. No prompts, answers or keys are in it. A relative path means the folder of the configuration "
        "file. null = none. Default: null.",
        examples=["events.jsonl"],
    )
    event_log_max_bytes: Size = Field(
        default=64 * 2**20,
        description="Size at which the event log is put aside (as `events.jsonl.1`) and begun anew, in bytes or as a "
        "size. Default: 64MiB.",
        examples=["64MiB"],
    )
    event_log_keep: Annotated[StrictInt, Field(ge=1, le=1000)] = Field(
        default=3, description="How many files of the event log that were put aside are kept. Default: 3."
    )
    state_dir: FileName | None = Field(
        default=None,
        description="Folder in which what llmux has learned (what switches cost) survives a restart. It is made if it "
        "is not there. A relative path means the folder of the configuration file. null = nothing is kept. "
        "Default: null.",
        examples=["/var/lib/llmux"],
    )
    timeouts_secs: RelayTimeouts = Field(
        default=RelayTimeouts(),
        description="Deadlines of the relay between clients and backends, in seconds. null = no limit. Default: "
        "keep_alive 75, head 15, body 120, connect 5, response 600, between_bytes 300, write 60.",
        examples=[{"response": 1800, "between_bytes": None}],
    )

    _path: Path | None = PrivateAttr(default=None)
    _base_dir: Path | None = PrivateAttr(default=None)
    _hook_dirs: dict[tuple[str, Hook], Path] = PrivateAttr(default_factory=dict)
    _warnings: tuple[str, ...] = PrivateAttr(default=())
    _file: tuple[str, Node] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check_whole(self) -> Config:
        claims = {name: Claim(model.aliases, model.needs, model.pinned) for name, model in self.models.items()}
        faults = list(find_faults(claims, self.devices))
        for name in self.policy.levels:
            if name not in self.models:
                faults.append((("policy", "levels", name), f"unknown model{did_you_mean(name, self.models)}"))
        if self.default_model is not None and self.default_model not in (names := self.names()):
            faults.append((("default_model",), f"unknown model{did_you_mean(self.default_model, names)}"))
        for place, name in enumerate(self.preload):
            if name not in self.models:
                faults.append((("preload", place), f"unknown model {name!r}{did_you_mean(name, self.models)}"))
            elif name in self.preload[:place]:
                faults.append((("preload", place), "is there twice"))
        faults += pattern_faults(self.api_keys, self.names())
        faults += empty_keys(self.model_fields_set, self.api_keys, self.admin_keys)
        if faults:
            raise ValidationError.from_exception_data(
                "Config",
                [
                    InitErrorDetails(
                        type=PydanticCustomError(FAULT, "{message}", {"message": message}), loc=place, input=None
                    )
                    for place, message in faults
                ],
            )
        return self

    @classmethod
    def from_file(cls, path: str | Path) -> Config:
        """Read a YAML (``.yaml``, ``.yml``) or JSON (any other name) file. Blocks; call it before the loop runs.

        Raises:
            ConfigError: with all faults of the file, each with its path and line.
        """
        from llmux.config.loader import load  # the loader makes a Config, so it cannot be imported above

        return load(Path(path))

    @property
    def path(self) -> Path | None:
        """The configuration file, as an absolute path; None for a configuration made in Python."""
        return self._path

    @property
    def base_dir(self) -> Path | None:
        """The folder of the configuration file; None for a configuration made in Python."""
        return self._base_dir

    @property
    def warnings(self) -> list[str]:
        """What is legal in the file but probably not meant; one line each."""
        return list(self._warnings)

    def fault(self, place: Location, message: str) -> ConfigError:
        """The error for a fault that shows only when the configuration is used; it names file and line, if it has any.

        Args:
            place: the keys that lead there.
        """
        return self.error([(place, message)])

    def port_warnings(self, port: int) -> list[str]:
        """What is probably not meant if llmux listens on `port`, which the command line may have chosen."""
        return [
            f"{dotted(('models', name, 'port'))} is llmux's own port: it would ask itself for answers"
            for name, model in self.models.items()
            if model.port == port
        ]

    @property
    def state_path(self) -> Path | None:
        """The folder for what was learned; None for none."""
        return None if self.state_dir is None else (self._base_dir or Path()) / self.state_dir

    @property
    def access_log_path(self) -> Path | None:
        """The access log's file; None for none."""
        return (self._base_dir or Path()) / self.access_log if isinstance(self.access_log, str) else None

    @property
    def event_log_path(self) -> Path | None:
        """Where the event log is written; None for nowhere."""
        return None if self.event_log is None else (self._base_dir or Path()) / self.event_log

    def error(self, faults: Iterable[Fault]) -> ConfigError:
        """The error for several faults: see `fault`."""
        if self._file is None:
            return ConfigError("configuration", [(dotted(place), None, message) for place, message in faults])
        source, root = self._file
        problems = [(dotted(place), root.find(place).line, message) for place, message in faults]
        return ConfigError(source, sorted(problems, key=lambda problem: problem[1] or 0))

    def hook_cwd(self, model: str, hook: Hook) -> Path | None:
        """The folder in which a hook runs: that of the configuration file, so that relative paths mean that folder.

        None, for a configuration made in Python, is the folder in which llmux was started. So is the folder of a hook
        that names a file which is there and not beside the configuration file, as 2.4.0 ran hooks there; `warnings`
        has a line about each of those.
        """
        return self._hook_dirs.get((model, hook), self._base_dir)

    def hook_timeout(self, model: str, hook: Hook) -> float | None:
        """Seconds that a hook of `model` may run (or its canary take); None for no limit."""
        own = self.models[model].hook_timeout_secs
        source = own if own is not None and hook.value in own.model_fields_set else self.hook_timeout_secs
        match hook:
            case Hook.WAKE:
                return source.wake
            case Hook.SLEEP:
                return source.sleep
            case Hook.ALIVE:
                return source.alive
            case Hook.VERIFY:
                return source.verify
            case Hook.CANARY:
                canary = self.models[model].canary
                return None if canary is None else canary.timeout_secs

    def doubt_after(self, model: str) -> int | None:
        """How many requests in a row the backend of `model` may fail before the model is in doubt; None: any number."""
        if self.doubt_after_failures is not None:
            return self.doubt_after_failures
        return None if self.models[model].canary is None else CANARY_DOUBT_AFTER

    def drain_timeout(self, model: str) -> float | None:
        """Seconds that requests in flight may take to end before `model` is put to sleep; None for no limit."""
        own = self.models[model]
        return own.drain_timeout_secs if "drain_timeout_secs" in own.model_fields_set else self.drain_timeout_secs

    def idle_sleep(self, model: str) -> float:
        """Seconds without anything to do after which `model` is put to sleep; 0 for never."""
        own = self.models[model].idle_sleep_secs
        return self.idle_sleep_secs if own is None else own

    def waiting_keepalive(self, model: str) -> float:
        """Seconds between two signs of life for a streamed request that waits for `model`; 0 for none."""
        own = self.models[model].waiting_keepalive_secs
        return self.waiting_keepalive_secs if own is None else own

    def forwards_authorization(self, model: str) -> bool:
        """Does the backend of `model` get the keys that clients sent? Always, where they need none."""
        own = self.models[model].forward_authorization
        return not self.api_keys or (self.forward_authorization if own is None else own)

    @property
    def tls_files(self) -> tuple[Path, Path] | None:
        """The certificate and its private key; None for plain HTTP."""
        if self.tls is None:
            return None
        base = self._base_dir or Path()
        return base / self.tls.cert, base / self.tls.key

    def names(self) -> dict[str, str]:
        """From every model's name and alias to the model's name."""
        table = {name: name for name in self.models}
        table.update((alias, name) for name, model in self.models.items() for alias in model.aliases)
        return table

    def placements(self, model: str) -> tuple[dict[str, int], ...] | None:
        """The ways to place `model`, each as bytes per device, in the order of the devices; None without `devices`."""
        if self.devices is None:
            return None
        return placements(self.models[model].needs, self.devices)

"""The keys at the top level of the configuration: what may be said, its defaults and units.

Data only; what follows from it is in `llmux.config.config`. The JSON schema and the reference are made from here and
from the sections that it names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictInt

from llmux.config.access import AdminKeyConfig, CorsConfig, HostName, KeyConfig, TlsConfig
from llmux.config.fields import Devices, Duration, FileName, Name, NetworkName, Section, Size, without_default
from llmux.config.model import ModelConfig
from llmux.config.policy import PolicyConfig
from llmux.config.shaping import DefaultModel
from llmux.config.timeouts import HookTimeouts, RelayTimeouts


class TopLevel(Section):
    """All keys, each checked by itself; the whole is a `Config`."""

    model_config = ConfigDict(defer_build=True)  # only `Config` is ever made, and building takes milliseconds

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
    on_exit_timeout_secs: Duration = Field(
        default=120.0,
        description="Seconds that sleep hooks may take, `verify` included and all models together, once llmux is told "
        "to stop and nothing is in flight any more: those of `on_exit: sleep`, and those that clean up after a wake "
        "that was cut short. Then they are ended by force. Default: 120.",
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
        description="Folder in which what llmux has learned (what switches cost), what operators have ordered, and "
        "which models may hold memory survive a restart. It is made if it is not there. A relative path means the "
        "folder of the configuration file. null = nothing is kept. Default: null.",
        examples=["/var/lib/llmux"],
    )
    timeouts_secs: RelayTimeouts = Field(
        default=RelayTimeouts(),
        description="Deadlines of the relay between clients and backends, in seconds. null = no limit. Default: "
        "keep_alive 75, head 15, body 120, connect 5, response 600, between_bytes 300, write 60.",
        examples=[{"response": 1800, "between_bytes": None}],
    )

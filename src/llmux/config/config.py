"""The whole configuration: the keys of the file, checked against each other, and what follows from them.

Pydantic models, usable by keyword from Python and filled from a file by `llmux.config.loader`. Frozen. From Python, bad
arguments raise pydantic's `ValidationError`; from a file, every fault becomes a line of one `llmux.errors.ConfigError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ConfigDict, PrivateAttr, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from llmux.config.checks import Claim, Fault, did_you_mean, find_faults, placements
from llmux.config.secrets import empty_keys, pattern_faults
from llmux.config.toplevel import TopLevel
from llmux.config.tree import Location, Node, dotted
from llmux.errors import ConfigError
from llmux.messages import Hook

FAULT = "llmux_fault"

CANARY_DOUBT_AFTER = 5
"""What `doubt_after_failures` is for a model that can be asked whether it is the backend's fault."""


class Config(TopLevel):
    """The whole configuration.

    From Python, give the keys of the file as keyword arguments; `Config.from_file` reads a file. Every file of llmux
    2.4.0 keeps its meaning, unknown keys aside: those were ignored, and are errors now.
    """

    # What is wrong is told without what was given: that may be a key.
    model_config = ConfigDict(title="llmux configuration", hide_input_in_errors=True, defer_build=False)

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

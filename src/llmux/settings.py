"""From the configuration to what the core must know of it.

A room of its own, since the live program and the simulator both begin here, and the simulator should not have to load
the server for it. Reads no files, runs nothing.
"""

from __future__ import annotations

from llmux.config import Config
from llmux.core import IMPLICIT_DEVICE, CoreSettings, ModelSpec
from llmux.messages import Hook


def core_settings(config: Config) -> CoreSettings:
    """What the core must know of a configuration."""
    devices = {IMPLICIT_DEVICE: 1} if config.devices is None else dict(config.devices)
    return CoreSettings(
        models=tuple(
            ModelSpec(
                name=name,
                placements=config.placements(name) or (dict(devices),),
                wake_timeout=config.hook_timeout(name, Hook.WAKE),
                sleep_timeout=config.hook_timeout(name, Hook.SLEEP),
                alive_timeout=config.hook_timeout(name, Hook.ALIVE),
                drain_timeout=config.drain_timeout(name),
                verify=model.verify is not None,
                verify_timeout=config.hook_timeout(name, Hook.VERIFY),
                canary=model.canary is not None,
                canary_timeout=config.hook_timeout(name, Hook.CANARY),
                doubt_after=config.doubt_after(name),
                max_queue=model.max_queue,
                max_in_flight=model.max_in_flight,
                pinned=model.pinned,
                priority=model.priority,
                idle_sleep=config.idle_sleep(name),
            )
            for name, model in config.models.items()
        ),
        devices=devices,
        request_timeout=config.policy.request_timeout_secs,
        drain_before_switch=config.policy.drain_before_switch,
        min_active=config.policy.min_active_secs,
        max_queue=config.max_queue,
        alive_interval=config.alive_interval_secs,
        preload=tuple(config.preload),
        level_seconds=config.policy.ageing_secs,
    )

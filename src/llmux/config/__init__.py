"""The configuration: its data and defaults, the file reader that reports every fault at once, and the JSON schema.

May import errors, messages and addresses only. Reads the configuration file, and the keys, certificates and scripts
that it names; runs nothing, binds nothing.
"""

from __future__ import annotations

from llmux.config.access import AdminKeyConfig, CorsConfig, KeyConfig, TlsConfig
from llmux.config.config import Config
from llmux.config.difference import Difference, as_started, difference
from llmux.config.model import ModelConfig
from llmux.config.policy import PolicyConfig
from llmux.config.schema import config_schema
from llmux.config.secrets import FoundKey, Secrets, read_secrets, secret_files, secret_variables
from llmux.config.sizes import format_size, parse_size
from llmux.config.timeouts import HookTimeouts, ModelHookTimeouts, RelayTimeouts

__all__ = [
    "AdminKeyConfig",
    "Config",
    "CorsConfig",
    "Difference",
    "FoundKey",
    "HookTimeouts",
    "KeyConfig",
    "ModelConfig",
    "ModelHookTimeouts",
    "PolicyConfig",
    "RelayTimeouts",
    "Secrets",
    "TlsConfig",
    "as_started",
    "config_schema",
    "difference",
    "format_size",
    "parse_size",
    "read_secrets",
    "secret_files",
    "secret_variables",
]

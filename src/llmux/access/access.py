"""All of it together, as one object that can be exchanged for another while requests come in."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmux.access.browsers import Origins
from llmux.access.hosts import Hosts
from llmux.access.keys import Keyring


@dataclass(frozen=True, slots=True)
class Access:
    """The default lets every program in, and no page of another site.

    Attributes:
        keys: those that open models; empty if nobody needs one.
        admin_keys: those that open the admin API; empty if it is open to this machine, and to no other.
        metrics_need_key: whether `/metrics` wants a key too, of either kind.
        forward_to: the models whose backends get the `Authorization` and `x-api-key` that a client sent, though it
            had to show a key. Without `keys`, all backends get them.
        hosts: the names that llmux answers to.
        origins: the sites whose pages may use llmux.
    """

    keys: Keyring = field(default_factory=Keyring)
    admin_keys: Keyring = field(default_factory=Keyring)
    metrics_need_key: bool = False
    forward_to: frozenset[str] = frozenset()
    hosts: Hosts = field(default_factory=Hosts)
    origins: Origins = field(default_factory=Origins)

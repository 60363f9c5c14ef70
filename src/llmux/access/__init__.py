"""Who may ask for what: keys, the names that llmux answers to, and what browsers may do for the pages they show.

Pure: no I/O, no clock. Everything here is immutable and made from a configuration; a new `Access` takes the place of an
old one as a whole. It never keeps a key, only its digest, and never puts anything that a client sent into the log.
"""

from llmux.access.access import Access
from llmux.access.browsers import Browser, Origins
from llmux.access.hosts import Hosts, is_loopback_name
from llmux.access.keys import (
    Key,
    Keyring,
    digest_of,
    is_credential,
    presented_keys,
    with_key_protocols_apart,
)

__all__ = [
    "Access",
    "Browser",
    "Hosts",
    "Key",
    "Keyring",
    "Origins",
    "digest_of",
    "is_credential",
    "is_loopback_name",
    "presented_keys",
    "with_key_protocols_apart",
]

"""Which vsock addresses the QEMUs of this host have, from their command lines.

The kernel tells nobody who has a CID; it refuses a second one (EADDRINUSE from
VHOST_VSOCK_SET_GUEST_CID) when all else of the machine has been built.
"""

from __future__ import annotations

import re
from pathlib import Path

from qlaunch.facts.tree import base_of, list_names, read_whole


def read_cids(root: Path = Path("/")) -> tuple[int, ...]:
    """CIDs in use by processes that name one, as -device or as JSON (libvirt)."""
    base = base_of(root)
    found: set[int] = set()
    for name in list_names(f"{base}/proc"):
        if name.isdigit():
            words = read_whole(f"{base}/proc/{name}/cmdline") or b""
            found.update(int(n) for n in re.findall(rb'guest-cid["\']?[=:]\s*([0-9]{1,10})', words))
    return tuple(sorted(found))

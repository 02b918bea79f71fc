"""What QEMU says when it cannot, and what to do about it."""

from __future__ import annotations

import re

_OLD = "this QEMU may be too old for it; another one can be named with [qemu] binary"
_REMEDIES = (  # what QEMU says, and what to do
    ("Cannot allocate memory", "free -h; lower machine.memory"),
    ("is not a valid device model", _OLD),
    ("invalid option", _OLD),
    ("is unexpected", _OLD),
    ("not in qcow2 format", "qemu-img info IMAGE tells the format"),
    ("tpm-emulator: TPM result for CMD_INIT", "the TPM's state is of no use any more: move it away "
     "(tpm2 or tpm12 beside the machine's log), and a new TPM is made"),
    ("Could not set up host forwarding", "the port is taken or below 1024: ss -ltnp"),
)
# raw_check_lock_bytes and raw_apply_lock_bytes in block/file-posix.c; the path is in the next line,
# which its monitor leaves out.
_LOCK = re.compile(
    r'Failed to get (?:shared )?"[a-z ]+" lock'
    r"(?:\s+Is another process using the image \[(?P<path>/[^\]\n]+)\]\?)?"
)


def remedy(words: str) -> str:
    """What to do about QEMU's last words."""
    found = (hint for said, hint in _REMEDIES if said in words)
    return lock_remedy(words) or next(
        found, "qlaunch plan PROFILE names the profile's line beside each option")


def lock_remedy(words: str) -> str:
    """What to do where they say that another program has an image open; "" where they do not."""
    lock = _LOCK.search(words)
    if not lock:
        return ""
    path = lock["path"] or ""
    image = f"'{path}'" if path and not path.startswith("/dev/fdset/") else "IMAGE"
    return f"another program has this image open: qlaunch ps; or: sudo fuser -v {image}"

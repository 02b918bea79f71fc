"""Tell systemd that a service has started: the guest runs (sd_notify(3), Type=notify)."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(text: str) -> None:
    """One message to whoever is in NOTIFY_SOCKET; nothing when nobody is. Raises nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    ) as sock:
        sock.sendto(text.encode(), address)

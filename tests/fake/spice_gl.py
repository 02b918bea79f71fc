"""A SPICE client that is handed buffers of a GPU, and tells which.

    /usr/bin/python3 spice_gl.py SOCKET

Prints the first as JSON: who has exported it, its size in bytes, what QEMU says of the picture in
it. Exit code 1: none came in a minute. Run by the system's Python, which has the bindings of the
client's library (gir1.2-spiceclientglib-2.0).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import gi  # type: ignore[import-not-found]

gi.require_version("SpiceClientGLib", "2.0")
from gi.repository import (  # type: ignore[import-not-found]  # noqa: E402
    GLib,
    GObject,
    SpiceClientGLib,
)


def told(scanout: Any) -> dict[str, Any]:
    """Documentation/driver-api/dma-buf.rst has the lines of a DMA buffer's fdinfo."""
    lines = Path(f"/proc/self/fdinfo/{scanout.fd}").read_text().splitlines()
    info = dict(line.split(":", 1) for line in lines)
    return {
        "exporter": info.get("exp_name", "").strip(),
        "bytes": os.lseek(scanout.fd, 0, os.SEEK_END),
        "format": scanout.format.to_bytes(4, "little").decode("ascii"),
        "size": [scanout.width, scanout.height], "stride": scanout.stride,
    }


def main(address: str) -> int:
    loop = GLib.MainLoop()
    session = SpiceClientGLib.Session(unix_path=address)
    seen: list[dict[str, Any]] = []

    def shown(display: Any, _: Any) -> None:
        scanout = display.get_gl_scanout()
        if scanout is not None and scanout.fd >= 0 and not seen:
            seen.append(told(scanout))
            loop.quit()

    def added(_: Any, channel: Any) -> None:
        if isinstance(channel, SpiceClientGLib.DisplayChannel):
            GObject.Object.connect(channel, "notify::gl-scanout", shown)
            channel.connect()  # SPICE's, as below: it hides the one for signals

    GObject.Object.connect(session, "channel-new", added)
    session.connect()
    GLib.timeout_add_seconds(60, loop.quit)
    loop.run()
    session.disconnect()
    sys.stdout.write(json.dumps(seen[:1]))
    return 0 if seen else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

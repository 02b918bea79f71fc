"""Channels between host and guest over virtio-serial."""

from __future__ import annotations

from typing import Literal

from qlaunch.profile.table import Annotated, Meta, Table


class Channel(Table, frozen=True):
    """A channel of your own: a named port in the guest, a unix socket on the host."""

    name: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
                extra={"form": "a port's name like org.example.data.0"},
            ),
        ],
        Meta(description="The port's name in the guest (/dev/virtio-ports/NAME)."),
    ]
    type: Annotated[
        Literal["socket", "spice"],
        Meta(description='"socket" is NAME.sock in the runtime directory; "spice" a port of the '
             "SPICE server's."),
    ] = "socket"


class Agent(Table, frozen=True):
    """Channels of the agents that run in guests."""

    guest: Annotated[
        bool,
        Meta(description="The QEMU guest agent's, on agent.sock in the runtime directory."),
    ] = True
    spice: Annotated[
        bool | None,
        Meta(description="The SPICE agent's (clipboard, screen size): over SPICE, or QEMU's own "
             "clipboard with a window or VNC; on with a SPICE display when absent."),
    ] = None
    webdav: Annotated[
        bool, Meta(description="Folders that a SPICE viewer shares (spice-webdavd).")
    ] = False

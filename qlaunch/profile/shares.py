"""Directories of the host that the guest sees."""

from __future__ import annotations

from typing import Literal

from qlaunch.profile.fields import Slot
from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import HostPath


class Share(Table, frozen=True):
    """A directory of the host for the guest, with the rights of the account QEMU runs as."""

    path: Annotated[HostPath, Meta(description="The directory.")]
    tag: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,30}$",
                extra={"form": "1 to 31 letters, digits, . _ or -"},
            ),
        ],
        Meta(description='The name that the guest mounts it by: "mount -t virtiofs TAG /mnt".'),
    ]
    type: Annotated[
        Literal["virtiofs", "9p"],
        Meta(description='"virtiofs" is the fast one, for Linux, and Windows from 10 on with '
             'virtio-win and WinFsp; "9p" is slower, for Linux, and needs no daemon.'),
    ] = "virtiofs"
    read_only: Annotated[bool, Meta(description="The guest cannot change anything in it.")] = False
    cache: Annotated[
        Literal["auto", "always", "none"] | None,
        Meta(description='How much the guest keeps in its memory (virtiofs): "auto" (when absent) '
             'for a while; "always" where only the guest changes the directory; "none" nothing.'),
    ] = None
    xattr: Annotated[
        bool, Meta(description="The guest can use extended attributes (virtiofs).")
    ] = False
    sandbox: Annotated[
        Literal["namespace", "none"],
        Meta(description='virtiofsd sees nothing but the directory ("namespace"); "none" is for '
             "hosts that let no ordinary user make namespaces."),
    ] = "namespace"
    security_model: Annotated[
        Literal["mapped-xattr", "mapped-file", "none"] | None,
        Meta(description='How 9p keeps owners and modes that the guest sets: in extended '
             'attributes (when absent), in files beside, or on the files as far as allowed.'),
    ] = None
    addr: Slot = None

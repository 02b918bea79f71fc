"""What the machine's processes may use of the host at most."""

from __future__ import annotations

from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import Size


class Limits(Table, frozen=True):
    """What QEMU and its helpers may use at most; the kernel's control groups (v2) see to it."""

    memory: Annotated[
        Size | None,
        Meta(
            description="Most memory, the guest's own included (huge pages are not), e.g. "
            '"10G" for a guest of 8G; beyond it the kernel swaps, then kills QEMU.'
        ),
    ] = None
    pids: Annotated[
        Annotated[int, Meta(ge=16, le=4194304)] | None,
        Meta(description="Most processes and threads; QEMU has one a vCPU and up to some eighty "
             "of its own."),
    ] = None

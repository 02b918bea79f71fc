"""Field types that several tables share."""

from qlaunch.profile.table import Annotated, Meta
from qlaunch.values import GuestSlot

Slot = Annotated[
    GuestSlot | None,
    Meta(description='Guest PCI slot, hexadecimal ("1c.0"); the slot map decides when absent.'),
]
BootIndex = Annotated[
    Annotated[int, Meta(ge=0, le=255)] | None,
    Meta(description="Boot order; the lowest number is tried first."),
]

LinkName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$",
        extra={"form": "a network interface's name (letters, digits, . _ -, at most 15)"},
    ),
]

QemuId = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,31}$",
        extra={"form": "a QEMU id: a letter, then letters, digits, . _ -, at most 32"},
    ),
]

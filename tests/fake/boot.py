"""As much of what a machine boots with as QEMU looks at."""

from __future__ import annotations


def kernel() -> bytes:
    """As much of a bzImage as a loader looks at (Documentation/arch/x86/boot.rst)."""
    image = bytearray(8192)
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = (0x0202).to_bytes(2, "little")
    return bytes(image)


def acpi_table() -> bytes:
    """A table with nothing in it but its header."""
    head = b"TEST" + (36).to_bytes(4, "little") + bytes([1, 0]) + b"QLNCH QLAUNCHT" + bytes(12)
    return head[:9] + bytes([-sum(head) & 255]) + head[10:]

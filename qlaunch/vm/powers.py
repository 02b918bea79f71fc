"""What only libc does and few launchers need, with ctypes, which most starts do without."""

from __future__ import annotations

import ctypes
import os
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4  # include/uapi/linux/prctl.h
_VERSION_3 = 0x20080522  # include/uapi/linux/capability.h: a header, and twice three masks
_LIBC = ctypes.CDLL(None, use_errno=True)


def drop_capabilities() -> None:
    """Empty the ambient, inheritable, permitted and effective sets of this process, so that what
    it executes has none either. Raises OSError."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    if _LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 or (
        _LIBC.capset(header, (ctypes.c_uint32 * 6)()) != 0
    ):
        _fail()


def end_with_parent(parent: int, number: int) -> None:
    """This process, and what it executes, gets this signal when its parent ends; it ends itself
    when that is not there any more. Raises OSError."""
    if _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        _fail()
    if os.getppid() != parent:
        os._exit(1)


def _fail() -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))

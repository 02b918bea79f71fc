"""One QEMU option and the one renderer that spells it.

QEMU splits option strings at commas and reads a doubled comma as a literal one (qemu_opts_parse,
util/qemu-option.c); whatever reaches QEMU from a profile passes through `spell` here.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.json import encode

from qlaunch.errors import Problem, UsageError

Value: TypeAlias = str | int | bool


class Option(Struct, frozen=True):
    """`flag`, its arguments in order, and why it is there.

    A pair with an empty key is a bare word (the driver in `-device ioh3420,…`). `why` names profile
    keys (`cpu.cores`) and rules, separated by `; `.
    """

    flag: str
    args: tuple[tuple[str, Value], ...] = ()
    why: str = ""
    verbatim: str | None = None  # [qemu] args: one word, not ours to spell
    whole: str | None = None  # the argument of an option that QEMU does not split: -bios, -set

    @property
    def words(self) -> tuple[str, ...]:
        """The option as argv words. Raises UsageError for a control character in a value."""
        if self.verbatim is not None:
            return (self.verbatim,)
        if self.whole is not None:
            return (self.flag, checked(self.flag, self.whole))
        if not self.args:
            return (self.flag,)
        return (self.flag, ",".join(spell(key, value) for key, value in self.args))


def spell(key: str, value: Value) -> str:
    """`key=value` in QEMU's option syntax: on/off for booleans, commas doubled."""
    text = ("on" if value else "off") if isinstance(value, bool) else str(value)
    text = checked(key, text).replace(",", ",,")
    return f"{key}={text}" if key else text


def checked(key: str, text: str) -> str:
    """The text. Raises UsageError for a control character in it."""
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise UsageError(
            Problem("a control character cannot be passed to QEMU", where=key, found=repr(text),
                    hint="take it out of the profile")
        )
    return text


def option(flag: str, *words: str, why: str = "", **pairs: Value | None) -> Option:
    """Build an Option: bare words, then pairs; None is left out, `_` in a key becomes `-`."""
    args: list[tuple[str, Value]] = [("", word) for word in words]
    args += [(key.replace("_", "-"), value) for key, value in pairs.items() if value is not None]
    return Option(flag, tuple(args), why)


def device(driver: str, why: str, **pairs: Value | None) -> Option:
    """A `-device` option."""
    return option("-device", driver, why=why, **pairs)


def as_json(flag: str, why: str, content: dict[str, Any]) -> Option:
    """An option in QEMU's JSON form, for what `key=value` cannot say (lists, nested limits).

    Keys are QEMU's own, and values as typed as QMP wants them.
    """
    return Option(flag, why=why, whole=encode(content).decode())


def place(bus: str, addr: str | None, port: str | None = None) -> dict[str, Value | None]:
    """`bus=` and `addr=` of a device, or the `port=` of one on USB."""
    return {"bus": bus, "addr": addr, "port": port}

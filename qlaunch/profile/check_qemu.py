"""Rules about what reaches QEMU as it was written: every text, and the `[qemu]` escape hatch.

What is refused here keeps a profile from mistakes, and from using by a plain word what is not its
own. It is no wall: `qemu.binary` may be any program, and who QEMU runs as may look into it with a
debugger. So nothing that QEMU inherits may be of more use than what that user has already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from qlaunch.errors import Problem
from qlaunch.profile.keys import KeyPath, quote
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile

_CONTROL = r"[\x00-\x1f\x7f\ud800-\udfff]"
_NUL = r"[\x00\ud800-\udfff]"
_PROPERTY = r"[A-Za-z][A-Za-z0-9._-]*\.[A-Za-z0-9_-]+"

# Options whose subject qlaunch decides, and what to write instead.
_OWNED = {
    "-daemonize": "QEMU must stay qlaunch's child, and dies of SIGSYS under its sandbox",
    "-runas": "QEMU starts as an ordinary user already; use qemu.user",
    "-user": "QEMU starts as an ordinary user already; use qemu.user",
    "-run-with": "QEMU starts as an ordinary user already; use qemu.user",
    "-chroot": "QEMU is confined by its sandbox and account",
    "-S": "QEMU always starts paused and is let go once it is pinned",
    "-preconfig": "QEMU always starts paused and is let go once it is pinned",
    "-pidfile": "the lock in the runtime directory says who runs",
    "-sandbox": "qlaunch sets the sandbox",
    "-help": "it makes QEMU print and exit",
    "-h": "it makes QEMU print and exit",
    "-version": "it makes QEMU print and exit",
}
_TWICE = {
    "-name": "name", "-uuid": "uuid", "-M": "machine.type", "-machine": "machine",
    "-cpu": "cpu.model", "-smp": "cpu", "-m": "machine.memory", "-bios": "machine.bios",
    "-display": "display.type", "-vga": "display.vga", "-nographic": "display and serial",
    "-boot": "machine.boot_menu", "-rtc": "machine.rtc", "-accel": "machine.accel",
    "-enable-kvm": "machine.accel",
}
# Every fd that QEMU has is qlaunch's, under numbers of its own: locks, sockets, taps, devices.
_NAMES_FD = (
    r"^-?-add-fd$",
    r'(?:^|[,{\s])"?(?:[\w-]+\.)*(?:fds?|vhostfds?|sock_fd)"?\s*[=:]',
    r'(?:^|[,{.\s"])type"?\s*[=:]\s*"?fd\b',  # a SocketAddress (qapi/sockets.json)
    r"^fd:",
    r"/dev/fd(?:set)?/|/proc/+(?:self|thread-self)/+(?:task/+\d+/+)?fd/",
)
_CONSOLES = ("-qmp", "-qmp-pretty", "-monitor", "-serial", "-chardev", "-mon")


def check_texts(profile: Profile) -> Iterator[Finding]:
    """No control character in what reaches QEMU, no NUL in what reaches a hook or the environment.

    An argument with a NUL cannot be passed on at all, and the others hide what a log or `plan`
    shows.
    """
    for path, text in _texts(profile, ()):
        free = path[0] == "hooks" or path[:2] == ("qemu", "env")
        if text.isprintable():  # nearly all are, and the patterns take 1 ms to compile
            continue
        if match := re.search(_NUL if free else _CONTROL, text):
            what = "a byte that is not UTF-8" if match[0] >= "\ud800" else "a control character"
            start = max(0, match.start() - 20)
            found = quote("…" * (start > 0) + text[start : match.start() + 20])
            yield Finding(path, Problem(what, found=found, hint="take it out; UTF-8 text is fine"))


def _texts(value: Any, at: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Every text of a profile, keys of free tables included."""
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, Struct):
        for name in value.__struct_fields__:
            item = getattr(value, name)
            if item is not None and item is not False and item is not True:
                yield from _texts(item, (*at, name))
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _texts(item, (*at, number))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield (*at, key), key
            yield from _texts(item, (*at, key))


def check_args(profile: Profile) -> Iterator[Finding]:
    """`qemu.args` leaves alone what qlaunch needs to own."""
    args = profile.qemu.args
    for number, arg in enumerate(args):
        following = args[number + 1] if number + 1 < len(args) else ""
        problem = _judge_arg(arg, following)
        if problem is not None:
            yield Finding(("qemu", "args", number), problem)


def check_inherited(profile: Profile) -> Iterator[Finding]:
    """Nothing verbatim names an open file by its number: all there are are qlaunch's."""
    hatch = profile.qemu
    texts: list[tuple[KeyPath, str]] = [
        (("qemu", "args", number), arg) for number, arg in enumerate(hatch.args)
    ]
    for table in ("set", "globals"):
        for key, value in (getattr(hatch, table) or {}).items():
            texts.append((("qemu", table, key), f"{key.rpartition('.')[2]}={value}"))
    for path, text in texts:
        if "fd" in text and any(re.search(pattern, text) for pattern in _NAMES_FD):
            yield Finding(path, Problem(
                "QEMU's open files are qlaunch's, and none is for a profile to name",
                found=quote(text[:60]),
                hint="name a path; sockets, taps and devices have tables of their own",
            ))


def _judge_arg(arg: str, following: str) -> Problem | None:
    option = "-" + arg.lstrip("-") if arg.startswith("-") else ""
    name, space, rest = option.partition(" ")
    if space and re.fullmatch(r"-[A-Za-z][a-z-]*", name):
        words = f'"{name}", {quote(rest.strip())}'
        return Problem("two arguments in one", found=quote(arg), hint=f"write {words}")
    if name in _OWNED:
        return Problem(f"{name} is not for a profile: {_OWNED[name]}", found=quote(arg),
                       hint="leave it out")
    if name in _CONSOLES and re.match(r"(mon:)?stdio\b", following):
        return Problem(
            f"{name} {following[:20]} takes the terminal that qlaunch talks on",
            found=f"{name} {following}"[:60],
            hint='for a serial console: [[serial]] with type = "stdio"',
        )
    if name in _TWICE:
        return Problem(
            f"{name} is given a second time; the result depends on QEMU",
            found=quote(arg),
            hint=f"the key for it is {_TWICE[name]}",
            severity="warning",
        )
    return None


def check_properties(profile: Profile) -> Iterator[Finding]:
    """`qemu.set` names a property of a device, `qemu.globals` one of a type."""
    for key in profile.qemu.globals or {}:
        if not re.fullmatch(_PROPERTY, key):
            yield Finding(
                ("qemu", "globals", key),
                Problem(
                    "expected a device type and its property", found=quote(key),
                    hint='in quotes, for example "virtio-net-pci.host_mtu" = 9000',
                ),
            )
    for key in profile.qemu.set or {}:
        if not re.fullmatch(_PROPERTY, key):
            yield Finding(
                ("qemu", "set", key),
                Problem(
                    "expected a device's id and its property",
                    found=quote(key),
                    hint='in quotes, for example "net0.host_mtu" = 9000',
                ),
            )


def check_environment(profile: Profile) -> Iterator[Finding]:
    """`qemu.env` has names that an environment can hold."""
    for name in profile.qemu.env or {}:
        if not name or "=" in name:
            problem = Problem('expected a variable\'s name, without "="', found=quote(name),
                              hint='for example GDK_BACKEND = "x11"')
            yield Finding(("qemu", "env", name), problem)


def check_empty_texts(profile: Profile) -> Iterator[Finding]:
    """What has to be named is not named by an empty text."""
    for path, text in (
        (("machine", "type"), profile.machine.type),
        (("cpu", "model"), profile.cpu.model),
        (("qemu", "binary"), profile.qemu.binary),
    ):
        if not text.strip():
            yield Finding(path, Problem("an empty text", found=quote(text),
                                        hint="leave the key out, and the default is taken"))


QEMU_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_texts,
    check_args,
    check_inherited,
    check_properties,
    check_environment,
    check_empty_texts,
)

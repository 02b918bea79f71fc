"""Words of `[qemu] args` that the QEMU at hand does not know any more.

Most of what is on the net about passthrough was written for QEMU 1 to 6. What has an exact
successor is replaced, and said; for the rest the profile's key is named. Versions are those of
QEMU's docs/about/removed-features.rst, tried with QEMU 7.2 and 10.0.
"""

from __future__ import annotations

from typing import NamedTuple

from qlaunch.plan.draft import Draft

Version = tuple[int, int, int]
_ALWAYS: Version = (0, 0, 0)


class Gone(NamedTuple):
    """An option that was removed: since when, whether it has an argument, what replaces it (None:
    nothing that is the same), and what to write in a profile instead."""

    since: Version
    argument: bool
    instead: tuple[str, ...] | None
    hint: str = ""


_DISPLAY = "[display] with type"
OPTIONS: dict[str, Gone] = {
    "-no-hpet": Gone((9, 0, 0), False, ("-machine", "hpet=off")),
    "-no-acpi": Gone((9, 0, 0), False, ("-machine", "acpi=off")),
    "-async-teardown": Gone((9, 0, 0), False, None, "leave it out: the sandbox forbids it"),
    "-singlestep": Gone((9, 0, 0), False, None, "leave it out: it is for debugging QEMU"),
    "-portrait": Gone((9, 2, 0), False, None, "turn the picture in the guest"),
    "-rotate": Gone((9, 2, 0), True, None, "turn the picture in the guest"),
    "-watchdog": Gone((7, 2, 0), True, None, "[watchdog]"),
    "-soundhw": Gone((7, 1, 0), True, None, "[audio]"),
    "-alt-grab": Gone((7, 1, 0), False, None, _DISPLAY),
    "-ctrl-grab": Gone((7, 1, 0), False, None, _DISPLAY),
    "-sdl": Gone((7, 1, 0), False, None, 'display.type = "sdl"'),
    "-curses": Gone((7, 1, 0), False, None, 'a [[serial]] with type = "stdio"'),
    "-enable-fips": Gone((7, 1, 0), False, None, "leave it out: QEMU's crypto library decides"),
    "-writeconfig": Gone((7, 1, 0), True, None, "leave it out: qlaunch plan shows what is run"),
    "-no-quit": Gone((7, 0, 0), False, None, _DISPLAY),
    "-show-cursor": Gone((6, 0, 0), False, None, _DISPLAY),
    "-realtime": Gone((6, 0, 0), True, None, "-overcommit mem-lock=on"),
    "-tb-size": Gone((6, 0, 0), True, None, "leave it out: QEMU decides by the memory there is"),
    "-no-kvm": Gone((5, 2, 0), False, None, 'machine.accel = "tcg"'),
    "-bt": Gone((5, 0, 0), True, None, "[[usb]] for the host's Bluetooth adapter"),
    "-balloon": Gone((3, 1, 0), True, None, "[balloon]"),
    "-localtime": Gone((3, 1, 0), False, None, 'machine.rtc = "localtime"'),
    "-startdate": Gone((3, 1, 0), True, None, "[machine] rtc"),
    "-rtc-td-hack": Gone((3, 1, 0), False, ("-rtc", "driftfix=slew")),
    "-nodefconfig": Gone((3, 1, 0), False, ()),
    "-redir": Gone((3, 1, 0), True, None, "[[net]] with user = { forward = [\"tcp:2222:22\"] }"),
    "-bootp": Gone((3, 1, 0), True, None, "[[net]] with user = { … }"),
    "-tftp": Gone((3, 1, 0), True, None, "[[net]] with user = { … }"),
    "-smb": Gone((3, 1, 0), True, None, "[[share]]"),
    "-no-kvm-irqchip": Gone((3, 0, 0), False, ("-machine", "kernel_irqchip=off")),
    "-no-kvm-pit-reinjection": Gone(
        (3, 0, 0), False, ("-global", "kvm-pit.lost_tick_policy=discard")
    ),
    "-no-kvm-pit": Gone((2, 12, 0), False, ()),
    "-tdf": Gone((2, 12, 0), False, ()),
    "-no-frame": Gone((2, 12, 0), False, None, _DISPLAY),
    "-hdachs": Gone((2, 12, 0), True, None, '[qemu] set = { "disk0.cyls" = … }'),
    "-pcidevice": Gone((2, 3, 0), True, None, '[[pci]] with device = "03:00.0"'),
    "-virtioconsole": Gone((2, 0, 0), True, None, "[[channel]]"),
}


class Piece(NamedTuple):
    """A part of an option's argument: `word` is its key, or the whole of a bare word; `values` are
    those it is about (empty: all). `instead` replaces it; "" drops it, None cannot."""

    since: Version
    options: tuple[str, ...]
    word: str
    values: tuple[str, ...]
    instead: str | None
    hint: str = ""


_ON = ("-chardev", "-serial", "-monitor", "-parallel", "-vnc", "-spice", "-drive", "-netdev")
_GEOMETRY = '[qemu] set = { "disk0.cyls" = … } of a [[disk]]'
PIECES: tuple[Piece, ...] = (
    Piece((9, 1, 0), ("-device",), "scsi", ("off", "false"), ""),
    Piece((9, 1, 0), ("-device",), "scsi", (), None, '[[disk]] with bus = "scsi"'),
    Piece(_ALWAYS, ("-drive",), "scsi", ("off",), ""),
    Piece(_ALWAYS, ("-drive",), "boot", ("off",), ""),
    Piece(_ALWAYS, ("-drive",), "boot", (), None, "boot = 1 of a [[disk]]"),
    Piece((3, 0, 0), ("-drive",), "serial", (), None, "serial of a [[disk]]"),
    Piece((3, 0, 0), ("-drive",), "addr", (), None, "addr of a [[disk]]"),
    *(Piece((3, 0, 0), ("-drive",), key, (), None, _GEOMETRY)
      for key in ("cyls", "heads", "secs", "trans")),
    Piece((3, 0, 0), ("-net",), "vlan", (), None, "[[net]]"),
    *(Piece((3, 1, 0), ("-vnc",), key, (), None, "tls-creds=ID, and -object tls-creds-x509")
      for key in ("tls", "x509", "x509verify")),
    Piece((6, 0, 0), ("-vnc",), "acl", (), None, "tls-authz=ID"),
    Piece((7, 1, 0), ("-display",), "alt_grab", ("on",), "grab-mod=lshift-lctrl-lalt"),
    Piece((7, 1, 0), ("-display",), "ctrl_grab", ("on",), "grab-mod=rctrl"),
    Piece((7, 1, 0), ("-display",), "window_close", ("on",), "window-close=on"),
    Piece((7, 1, 0), ("-display",), "window_close", ("off",), "window-close=off"),
    *(Piece((6, 0, 0), _ON, word, ("",), f"{word}=on") for word in (
        "server", "telnet", "mux", "password", "sasl", "lossy", "disable-ticketing", "readonly",
        "snapshot", "copy-on-read", "nodelay",
    )),
    Piece((6, 0, 0), _ON, "nowait", ("",), "wait=off"),
    Piece((6, 0, 0), _ON, "noserver", ("",), "server=off"),
)
# First words of arguments: (option, word) -> the same three answers.
HEADS: dict[tuple[str, str], Gone] = {
    ("-chardev", "tty"): Gone((8, 0, 0), True, ("serial",)),
    ("-chardev", "parport"): Gone((8, 0, 0), True, ("parallel",)),
    ("-fsdev", "proxy"): Gone((9, 2, 0), True, None, "[[share]]"),
    ("-virtfs", "proxy"): Gone((9, 2, 0), True, None, "[[share]]"),
    ("-device", "ide-drive"): Gone((6, 0, 0), True, None, '[[disk]] with bus = "ide"'),
    ("-device", "scsi-disk"): Gone((6, 0, 0), True, None, '[[disk]] with bus = "scsi"'),
    ("-device", "pci-assign"): Gone((3, 0, 0), True, None, '[[pci]] with device = "03:00.0"'),
    ("-device", "kvm-pci-assign"): Gone((3, 0, 0), True, None, '[[pci]] with device = "03:00.0"'),
    ("-device", "ivshmem"): Gone((4, 0, 0), True, None, "[[shmem]]"),
    **{("-usbdevice", word): Gone((6, 0, 0), True, None, "[[usb]], [[disk]] or [[net]]")
       for word in ("audio", "ccid", "host", "disk", "serial", "net", "bt")},
}
_ARGUMENTS = {"-append", *(option for option, _ in HEADS), *(o for p in PIECES for o in p.options)}


def plan_args(draft: Draft) -> None:
    """Decide `args`: those of the profile, in words that this QEMU has."""
    qemu, words = draft.facts.qemu, list(draft.profile.qemu.args)
    if qemu is None:
        return
    made: list[str] = []
    number = 0
    while number < len(words):
        option = f"-{words[number].lstrip('-')}" if words[number].startswith("-") else ""
        takes = option in _ARGUMENTS or (option in OPTIONS and OPTIONS[option].argument)
        argument = words[number + 1] if takes and number + 1 < len(words) else None
        where = f"qemu.args[{number}]"
        given = (words[number],) if argument is None else (words[number], argument)
        made += _translate(draft, where, option, argument, given, qemu.version)
        number += len(given)
    if made != words:
        draft.decided["args"] = tuple(made)


def _translate(
    draft: Draft, where: str, option: str, argument: str | None, given: tuple[str, ...],
    version: Version,
) -> tuple[str, ...]:
    gone = OPTIONS.get(option)
    if gone is not None and version >= gone.since:
        instead = gone.instead
        if option == "-realtime" and argument in ("mlock=on", "mlock=off"):
            instead = ("-overcommit", f"mem-lock={argument[6:]}")
        elif option == "-balloon" and argument == "none":
            instead = ()
        _tell(draft, where, " ".join(given), gone.since, instead, gone.hint)
        return given if instead is None else instead
    if argument is None or option not in _ARGUMENTS or option == "-append":
        return given
    return (given[0], _argument(draft, f"{where[:-1]}", option, argument, version))


def _argument(draft: Draft, where: str, option: str, argument: str, version: Version) -> str:
    """The argument with its parts replaced; commas that are doubled belong to a value."""
    where += "]"
    parts = [p.replace("\0", ",,") for p in argument.replace(",,", "\0").split(",")]
    head = HEADS.get((option, parts[0].partition(":")[0]))
    if head is not None and version >= head.since:
        _tell(draft, where, f"{option} {parts[0]}", head.since, head.instead, head.hint)
        parts[0] = head.instead[0] if head.instead else parts[0]
    blk = option != "-device" or parts[0].startswith("virtio-blk")
    made = parts[:1] if option != "-drive" else [
        *_part(draft, where, option, parts[0], version)]
    for part in parts[1:]:
        made += _part(draft, where, option, part, version) if blk else [part]
    return ",".join(made)


def _part(
    draft: Draft, where: str, option: str, part: str, version: Version
) -> list[str]:
    key, _, value = part.partition("=")
    bare = "=" not in part
    for piece in PIECES:
        if option not in piece.options or piece.word != key or version < piece.since:
            continue
        if bare != (piece.values == ("",)) or (piece.values and value not in piece.values):
            continue
        new = None if piece.instead is None else (piece.instead,) if piece.instead else ()
        _tell(draft, where, f"{option} …,{part}", piece.since, new, piece.hint)
        return [part] if new is None else list(new)
    return [part]


def _tell(
    draft: Draft, where: str, found: str, since: Version, instead: tuple[str, ...] | None,
    hint: str,
) -> None:
    dotted = f" since {since[0]}.{since[1]}" if since > _ALWAYS else ""
    if instead is None:
        plain = hint.startswith(("leave", "turn"))
        draft.problem(f"QEMU does not have this{dotted}", where, found=found,
                      hint=hint if plain else f"use {hint}")
    else:
        words = " ".join(instead) or "nothing: it is the only way now"
        draft.problem(f"QEMU spells this differently{dotted}; translated", where, found=found,
                      hint=f"write {words}" if instead else "leave it out, it does nothing",
                      severity="note")

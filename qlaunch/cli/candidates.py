"""What a word of a command line may become, for `qlaunch completion`.

Options come from the verbs' parsers, so that no list has to be kept beside them; what an argument
can be is told by a function for it, by its choices, or by its metavar. Nothing is asked of another
machine: `qlaunch on HOST` completes what does not depend on it.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

FILES = "<files>"  # let the shell complete a file's name


class Asked(NamedTuple):
    """Which word is wanted: of which verb, after which words, of which those have no dash."""

    verb: str
    before: Sequence[str]
    word: str
    given: Sequence[str] = ()
    far: bool = False  # for another machine


def candidates(words: Sequence[str], *, far: bool = False) -> list[str]:
    """What the last of the words after `qlaunch` may become."""
    from qlaunch.cli.command import HERE_ONLY
    from qlaunch.cli.main import VERBS

    *before, word = words
    if not before:
        return [v for v in VERBS if v.startswith(word) and not (far and v in HERE_ONLY)]
    verb = before[0]
    if verb not in VERBS or (far and verb in HERE_ONLY):
        return []
    parser = argparse.ArgumentParser(add_help=True)
    importlib.import_module(f"qlaunch.cli.{VERBS[verb][0]}").add_arguments(parser)
    options = {name: action for action in parser._actions for name in action.option_strings}
    at = _without_dash(options, before)
    if verb == "on" and at:  # what follows the host is a command line of its own
        return candidates([*before[at[0] + 1 :], word], far=True)
    asked = Asked(verb, before[1:], word, [before[place] for place in at], far)
    found = list(dict.fromkeys(_of_verb(parser, options, asked)))
    return [each for each in found if each.startswith(word) or each == FILES]


def _without_dash(
    options: dict[str, argparse.Action], before: Sequence[str]
) -> list[int]:
    """Which words are neither the verb nor options, nor values of these."""
    found, skip = [], False
    for place, each in enumerate(before[1:], 1):
        action = options.get(each)
        if not skip and action is None and not each.startswith("-"):
            found.append(place)
        skip = action is not None and action.nargs != 0
    return found


def _of_verb(
    parser: argparse.ArgumentParser, options: dict[str, argparse.Action], asked: Asked
) -> Iterator[str]:
    last = options.get(asked.before[-1]) if asked.before else None
    if last is not None and last.nargs != 0:
        yield from _values(last, asked)
    elif asked.word.startswith("-"):
        yield from options
    else:
        places = [action for action in parser._actions if not action.option_strings]
        given = len(asked.given)
        if not places or (given >= len(places) and places[-1].nargs not in ("*", "+")):
            return  # only the last one may be repeated
        yield from _values(places[min(given, len(places) - 1)], asked)


def _values(action: argparse.Action, asked: Asked) -> Iterator[str]:
    if action.choices is not None:
        yield from map(str, action.choices)
        return
    kind = str(action.metavar or action.dest).upper()
    own = _OWN.get((asked.verb, action.dest)) or _KINDS.get(kind)
    if own is not None:
        yield from own(asked)
    elif kind.startswith(("ADDRESS", "DEVICE", "PARENT")):
        yield from _addresses(asked)
    elif "FILE" in kind or "DIR" in kind:
        yield FILES


# -- what there is --------------------------------------------------------------------------------


def _words(*words: str) -> Callable[[Asked], Iterator[str]]:
    return lambda _: iter(words)


def _profiles(asked: Asked) -> Iterator[str]:
    from qlaunch.profile.find import profile_names

    yield from [FILES] if "/" in asked.word else profile_names() or [FILES]


def _profiles_or_last(asked: Asked) -> Iterator[str]:
    yield "last"
    yield from _profiles(asked)


def _machines(asked: Asked) -> Iterator[str]:
    from qlaunch.cli.base import runtime_base
    from qlaunch.cli.known import machines_of_root
    from qlaunch.run.info import machine_names

    if not asked.far:
        yield from machine_names(runtime_base())
        yield from machines_of_root()


def _addresses(asked: Asked) -> Iterator[str]:
    if not asked.far:
        yield from sorted(name.removeprefix("0000:") for name in _listed("/sys/bus/pci/devices"))


def _desktop(asked: Asked) -> Iterator[str]:
    """What an action is about: a profile, an entry that is there, a machine."""
    from qlaunch.cli.desktop import data_home, entries

    action = asked.given[0]
    if action in ("install", "start"):
        yield from _profiles(asked)
    elif action == "remove":
        yield from (each.name for each in entries(data_home(system="--system" in asked.before)))
    elif action != "list":
        yield from _machines(asked)


def _devices_of(asked: Asked) -> Iterator[str]:
    """The named machine's, as `detach` and `attach` name them."""
    from qlaunch.cli.base import runtime_base
    from qlaunch.run.beside import planned_usbs
    from qlaunch.run.info import read_info

    info = None if asked.far else read_info(f"{runtime_base()}/{asked.given[0]}")
    if info is not None:
        yield from (card.address.removeprefix("0000:") for card in info.cards)
        yield from (usb.name or usb.ident or usb.id for usb in planned_usbs(info))


def _ports(asked: Asked) -> Iterator[str]:
    """By the sockets that lie there: QEMU, which knows of all, may be talking to somebody."""
    from qlaunch.cli.base import runtime_base
    from qlaunch.run.info import read_info

    info = None if asked.far else read_info(f"{runtime_base()}/{asked.given[0]}")
    if info is not None:
        yield from sorted(path.stem for path in Path(info.socket_dir).glob("serial*.sock"))


def _guests(_: Asked) -> Iterator[str]:
    from qlaunch.plan.eras import ERAS

    yield from ERAS


def _cards(asked: Asked) -> Iterator[str]:
    yield "none"
    for address in _addresses(asked):
        path = Path("/sys/bus/pci/devices", f"0000:{address}"[-12:], "class")
        if _text(path).startswith("0x03"):  # PCI_BASE_CLASS_DISPLAY
            yield address


def _networks(asked: Asked) -> Iterator[str]:
    yield from ("nat", "user", "none")
    if not asked.far:
        yield from (f"bridge:{name}" for name in sorted(_listed("/sys/class/net"))
                    if Path("/sys/class/net", name, "bridge").is_dir())


def _loaders(_: Asked) -> Iterator[str]:
    from qlaunch.setup.model import BOOTS

    yield from BOOTS


def _accounts(asked: Asked) -> Iterator[str]:
    """Those of people (UID_MIN of login.defs is 1000 everywhere), and of root who asks."""
    import pwd

    nobody = 65534
    if not asked.far:
        yield from sorted(e.pw_name for e in pwd.getpwall() if 1000 <= e.pw_uid < nobody)


def _drivers(asked: Asked) -> Iterator[str]:
    if not asked.far:
        yield from sorted(_listed("/sys/bus/pci/drivers"))


def _hosts(asked: Asked) -> Iterator[str]:
    """ssh's: of its configuration, and of those that it has met under a name it may tell."""
    before = list(asked.before)
    own = before[before.index("-F") + 1] if "-F" in before[:-1] else "~/.ssh/config"
    user = asked.word[: asked.word.rfind("@") + 1]
    names = _configured(Path(own).expanduser(), 0) + _met(Path("~/.ssh/known_hosts").expanduser())
    yield from (f"{user}{name}" for name in dict.fromkeys(names))


def _configured(path: Path, depth: int) -> list[str]:
    """`Host` and `Include` of ssh_config(5); patterns are no hosts."""
    found: list[str] = []
    for line in _text(path).splitlines():
        key, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        words = [word.strip('"') for word in rest.split()]
        if key.lower() == "host":
            found += [word for word in words if not set(word) & set("*?!")]
        elif key.lower() == "include" and depth < 3:
            for word in words:
                below = Path("~/.ssh").expanduser()
                pattern = Path(word).expanduser()
                places = [pattern] if pattern.is_absolute() else sorted(below.glob(word))
                found += [name for place in places for name in _configured(place, depth + 1)]
    return found


def _met(path: Path) -> list[str]:
    """Names of known_hosts (sshd(8)); hashed ones start with |, and another port with [."""
    firsts = [line.split()[0] for line in _text(path).splitlines() if line.strip()]
    names = [name for first in firsts for name in first.split(",")]
    return [name for name in names if name[:1] not in "|[#@!*"]


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names are all that is wanted
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


_KINDS: dict[str, Callable[[Asked], Iterator[str]]] = {  # by metavar
    "PROFILE": _profiles, "NAME": _machines,
    "SHELL": _words("bash", "zsh", "fish"),
}
_OWN: dict[tuple[str, str], Callable[[Asked], Iterator[str]]] = {  # by verb and argument
    ("vgpu", "action"): _words("create", "remove"),
    ("host", "action"): _words("setup", "revert", "show"),
    ("host", "user"): _accounts,
    ("host", "boot"): _loaders,
    ("desktop", "action"): _words("install", "remove", "list"),  # the others are for entries
    ("desktop", "what"): _desktop,
    ("on", "host"): _hosts,
    ("detach", "device"): _devices_of,
    ("attach", "device"): _devices_of,
    ("unbind", "driver"): _drivers,
    ("console", "port"): _ports,
    ("plan", "diff"): _profiles_or_last,
    ("new", "name"): _words(),
    ("new", "guest"): _guests,
    ("new", "card"): _cards,
    ("new", "cpus"): _words("auto"),
    ("new", "network"): _networks,
}

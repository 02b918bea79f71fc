"""A first profile as text: what was answered, what follows from it, and what may be added.

Every line that is not a bare answer says why it is there. What the text says is held by planning
it before it is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from shlex import quote

from qlaunch.advise.answers import GUESTS, Answers, disk_format, functions, host_memory, strangers
from qlaunch.facts.model import HostFacts
from qlaunch.plan.eras import ERAS
from qlaunch.plan.firmware import versioned
from qlaunch.plan.quirks import quirks_of
from qlaunch.plan.topology import cores_of
from qlaunch.values import PciAddress, Size, VmName

_COLUMN = 31
_VGA = 0x0300
_ERA_WORDS = {
    "windows11": "UEFI with Secure Boot, a TPM 2.0, local time, Hyper-V set",
    "windows10": "local time in the clock, Hyper-V set",
    "windows7": "local time in the clock, an old USB controller",
    "linux": "virtio devices, UTC in the clock",
    "other": "plain devices that most systems know",
}


def toml_text(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _line(text: str, comment: str) -> str:
    return f"{text:{_COLUMN}}# {comment}" if comment else text


def profile_text(name: VmName, answers: Answers, facts: HostFacts, isos: tuple[str, ...]) -> str:
    """The whole file."""
    parts = [
        _head(name, answers, facts), _machine(answers, facts), _cpu(answers, facts),
        _disk(name, answers, facts), _cdroms(answers, isos), _net(answers),
        _card(answers, facts) if answers.card else _screen(answers, facts),
    ]
    return "\n".join("\n".join(part) + "\n" for part in parts if part)


def _head(name: str, answers: Answers, facts: HostFacts) -> list[str]:
    what = f"{GUESTS[answers.guest]} on {facts.host or 'this host'}"
    card = f" with the card {answers.card.short}" if answers.card else ""
    word = quote(name)
    lines = [f"# {what}{card}, begun by `qlaunch new`.", "#"]
    if answers.card:
        lines += [
            f"#   qlaunch run {word} --install   to install: in a window, without the card",
            f"#   qlaunch run {word}",
        ]
    else:
        lines.append(f"#   qlaunch run {word}")
    return [
        *lines, "#", "# All keys are in qlaunch.toml(5); what each does here is told by: "
        f"qlaunch plan {word}", "",
        f"name = {toml_text(name)}",
        _line(f"guest = {toml_text(answers.guest)}", _ERA_WORDS[answers.guest]),
    ]


def _machine(answers: Answers, facts: HostFacts) -> list[str]:
    total = host_memory(facts)
    lines = ["[machine]", *_type(answers, facts),
             _line(f'memory = "{answers.memory}"', f"of the host's {_gib(total)}" if total else "")]
    if uefi(answers, facts) and ERAS[answers.guest].firmware != "uefi":
        lines.append(_line('firmware = "uefi"', "cards of today start best by it"))
    if answers.card:
        lines.append(_line("# hugepages = true", "faster; reserved at start, given back at exit"))
    if ERAS[answers.guest].tpm:
        lines += ["", _line("[tpm]", "a TPM 2.0; its state is kept with the machine's")]
    return lines


def _type(answers: Answers, facts: HostFacts) -> Iterator[str]:
    """Pinned for whom a newer machine is another computer; `check` would ask for it."""
    pinned = versioned(facts.qemu, "q35")
    if answers.guest.startswith("windows") and pinned != "q35":
        yield _line(f'type = "{pinned}"', "a newer one is another computer to Windows")


def uefi(answers: Answers, facts: HostFacts) -> bool:
    """For a new disk and a card, where the host has firmware; what is installed already stays with
    what it was installed by."""
    era = ERAS[answers.guest]
    if era.firmware == "uefi":
        return True
    new = isinstance(answers.disk, Size)
    return bool(new and answers.card and facts.firmware) and answers.guest != "windows7"


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.0f}G"


def _cpu(answers: Answers, facts: HostFacts) -> list[str]:
    cores = [core.cpus for core in cores_of(facts.cpus or ())]
    wide = max((len(cpus) for cpus in cores), default=1)
    threads = wide if answers.cpus % wide == 0 else 1
    lines = ["[cpu]", f"cores = {answers.cpus // threads}"]
    if threads > 1:
        lines.append(_line(f"threads = {threads}", "as the host's cores have"))
    free = sum(len(cpus) for cpus in cores[1:])
    pin = 'pin = "auto"'
    if answers.card and answers.cpus <= free:
        lines.append(_line(pin, "whole cores beside each other, near the card"))
    else:
        lines.append(_line(f"# {pin}", "host CPUs of its own for each of them"))
    return [*lines, *_hidden(answers, facts)]


def _hidden(answers: Answers, facts: HostFacts) -> Iterator[str]:
    """For cards whose last driver stops with error 43 in a machine that it knows for one."""
    device = facts.device(answers.card) if answers.card else None
    if device is None or not answers.guest.startswith("windows"):
        return
    known = {quirk.id for quirk in quirks_of(device)}
    if "nvidia-fermi-code43" in known:
        yield _line("hide_kvm = true", "the card's last driver stops with error 43 otherwise")
        yield 'vendor_id = "qlaunch"'
    elif "nvidia-code43" in known:
        yield _line("# hide_kvm = true", "for NVIDIA drivers before 465 (error 43)")


def _disk(name: str, answers: Answers, facts: HostFacts) -> list[str]:
    disk, era = answers.disk, ERAS[answers.guest]
    bus = f'bus = "{era.disk}"'
    why = "" if era.disk == "virtio" else (
        'has its driver; "virtio" is faster with one'
    )
    if isinstance(disk, Size):
        return [
            "[[disk]]",
            _line(f"file = {toml_text(f'{name}.qcow2')}", "beside this file; made at first start"),
            'format = "qcow2"', f'create = {{ size = "{disk}" }}', _line(bus, why),
            _line("discard = true", "space that the guest frees is the host's again"), "boot = 1",
        ]
    found = facts.file(disk)
    lines = ["[[disk]]", f"file = {toml_text(disk)}",
             f'format = "{disk_format(found, disk)}"', _line(bus, why)]
    if disk.startswith("/dev/"):
        lines.append(_line('cache = "none"', "the guest has a cache of its own"))
    return [*lines, "boot = 1"]


def _cdroms(answers: Answers, isos: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    for number, iso in enumerate(isos, 2):
        lines += ["", "[[cdrom]]", f"file = {toml_text(iso)}", f"boot = {number}"]
    if lines:
        return lines[1:]
    if not isinstance(answers.disk, Size):
        return []
    return [_line("# [[cdrom]]", "to install from"), '# file = "installer.iso"', "# boot = 2"]


def _net(answers: Answers) -> list[str]:
    kind, _, name = answers.network.partition(":")
    if kind == "none":
        return []
    model = ERAS[answers.guest].nic
    lines = {
        "nat": _line("nat = {}", "a network of its own behind the host"),
        "user": _line("user = {}", "behind the host, without privileges"),
        "bridge": f"bridge = {toml_text(name)}",
    }
    shown = ["[[net]]", lines[kind]]
    if model != "virtio":
        shown.append(_line(f'model = "{model}"', 'the same: "virtio" is faster with a driver'))
    return shown


def _card(answers: Answers, facts: HostFacts) -> list[str]:
    card = PciAddress(answers.card or "")
    device = facts.device(card)
    lines = ["[[pci]]", f'device = "{card.short}"']
    if device is not None:
        lines.append(_line(f'id = "{device.id}"', "refuse to start when something else is there"))
        if device.class_code >> 8 == _VGA and not uefi(answers, facts):
            lines.append(_line("x_vga = true", "the BIOS shows its texts on it"))
    others = functions(facts, card)
    if others:
        named = ", ".join(f"{d.address.short} [{d.id}]" for d in others)
        lines.append(_line('functions = "all"', f"and {named}"))
    lines += _group(card, facts)
    return [
        *lines, "", "[display]", _line('type = "none"', "the picture is on the card's own monitor"),
        'vga = "none"', "", *_hands(),
    ]


def _group(card: PciAddress, facts: HostFacts) -> Iterator[str]:
    rest = strangers(facts, card)
    if rest:
        yield _line('group = "take"', "its IOMMU group has these too, and is handed over whole:")
        for device in rest:
            text = f"  {device.address.short} [{device.id}] on {device.driver or 'no driver'}"
            yield _line("", text)


def _hands() -> list[str]:
    return [
        "# Keyboard and mouse: a USB device of the host's (lsusb) …",
        "# [[usb]]", '# id = "046d:c52b"',
        "# … or both, handed over and back by both Ctrl keys (ls /dev/input/by-id):",
        "# [[input]]", '# evdev = "/dev/input/by-id/usb-Keyboard-event-kbd"',
    ]


def _screen(answers: Answers, facts: HostFacts) -> list[str]:
    vga = "virtio" if answers.guest == "linux" else "std"
    return [
        "[display]", _line('type = "auto"', "a window; a VNC socket where there is no screen"),
        f'vga = "{vga}"', "",
        _line("[[input]]", "the mouse is where the host's is"), 'type = "tablet"',
    ]

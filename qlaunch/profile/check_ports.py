"""Rules about serial and parallel ports and the debug console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from qlaunch.errors import Problem
from qlaunch.profile.keys import KeyPath, key_text
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile
from qlaunch.values import ipv4_number

_PARALLELS = 3

def check_terminal(profile: Profile) -> Iterator[Finding]:
    """One port at most is on the terminal."""
    stdio = [path for path, port in _ports(profile) if port.type == "stdio"]
    for path in stdio[1:]:
        problem = Problem(f"{key_text(stdio[0])} is on the terminal already", found='"stdio"',
                          hint='"socket" here; qlaunch console shows it')
        yield Finding((*path, "type"), problem, also=((*stdio[0], "type"),))


def check_port_keys(profile: Profile) -> Iterator[Finding]:
    """A file is named for what has one, an address for TCP; a port of the host's is named."""
    for path, port in _ports(profile):
        address = getattr(port, "address", None)
        also = ((*path, "type"),)
        if port.file is not None and port.type not in ("file", "device"):
            problem = Problem(f'a file is for type = "file", not "{port.type}"',
                              hint='type = "file", or leave file out')
            yield Finding((*path, "file"), problem, also)
        if address is not None and port.type != "tcp":
            problem = Problem(f'an address is for type = "tcp", not "{port.type}"', found=address,
                              hint='type = "tcp", or leave address out')
            yield Finding((*path, "address"), problem, also)
        if port.type == "tcp" and address is None:
            yield Finding((*path, "type"), Problem(
                "a TCP port needs an address", hint='address = "127.0.0.1:4444"'))
        if port.type == "device" and port.file is None:
            node = "/dev/parport0" if path[0] == "parallel" else "/dev/ttyS0"
            yield Finding((*path, "type"), Problem(
                "which of the host's ports?", hint=f'file = "{node}"'))


def check_port_files(profile: Profile) -> Iterator[Finding]:
    """Two ports that write into one file spoil it."""
    seen: dict[str, KeyPath] = {}
    for path, port in _ports(profile):
        if port.file is None:
            continue
        first = seen.setdefault(port.file, path)
        if first != path:
            yield Finding(
                (*path, "file"),
                Problem(f"{key_text(first)} writes to the same file", found=port.file,
                        hint="give each its own"),
                also=((*first, "file"),),
            )


def check_other_files(profile: Profile) -> Iterator[Finding]:
    """What a port writes would end up in the guest's disk."""
    drives: dict[str, KeyPath] = {}
    for kind in ("disk", "cdrom"):
        for number, drive in enumerate(getattr(profile, kind)):
            if drive.file is not None:
                drives.setdefault(drive.file, (kind, number))
    for path, port in _ports(profile):
        if port.file in drives:
            drive = drives[port.file]
            yield Finding(
                (*path, "file"),
                Problem(f"{key_text(drive)} is the same file, and would be written over",
                        found=port.file, hint="give each its own"),
                also=((*drive, "file"),),
            )


def check_numbers(profile: Profile) -> Iterator[Finding]:
    """Port numbers of TCP are 16 bits; a PC has places for three parallel ports
    (isa_parallel_io, hw/char/parallel-isa.c)."""
    for number, serial in enumerate(profile.serial):
        host, _, port = (serial.address or "").rpartition(":")
        if host and host[0].isdigit() and ipv4_number(host) < 0:
            yield Finding(("serial", number, "address"), Problem(
                "there is no such IPv4 address", found=host,
                hint='for example "127.0.0.1:4444"'))
        if port and not 1 <= int(port) <= 65535:
            yield Finding(("serial", number, "address"), Problem(
                "a port number from 1 to 65535 is wanted", found=serial.address or "",
                hint='for example "127.0.0.1:4444"'))
    if len(profile.parallel) > _PARALLELS:
        yield Finding(("parallel", _PARALLELS), Problem(
            "a PC has three parallel ports", found=f"{len(profile.parallel)} tables",
            hint="leave the others out"))


def check_open_address(profile: Profile) -> Iterator[Finding]:
    """A serial console that the network can reach asks for no password."""
    for number, serial in enumerate(profile.serial):
        host = (serial.address or "").rpartition(":")[0]
        if serial.type == "tcp" and host and not host.startswith(("127.", "localhost", "[::1]")):
            yield Finding(
                ("serial", number, "address"),
                Problem("everybody who reaches this address has the serial port, without a "
                        "password", found=serial.address or "", severity="warning",
                        hint='"127.0.0.1:PORT" is for this host only'),
            )


def _ports(profile: Profile) -> Iterator[tuple[KeyPath, Any]]:
    for kind in ("serial", "parallel"):
        for number, port in enumerate(getattr(profile, kind)):
            yield (kind, number), port
    if profile.debugcon is not None:
        yield ("debugcon",), profile.debugcon


PORT_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_terminal, check_port_keys, check_port_files, check_other_files, check_numbers,
    check_open_address,
)

"""Network namespaces for tests: the host's own, one for a guest, one that plays the internet."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def enter(fd: int) -> None:
    """Move this process into a namespace."""
    assert _LIBC.setns(fd, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


@contextlib.contextmanager
def fresh() -> Iterator[None]:
    """This process is in a namespace of its own meanwhile."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if _LIBC.unshare(CLONE_NEWNET) != 0:
        os.close(home)
        pytest.skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        enter(home)
        os.close(home)


@contextlib.contextmanager
def another() -> Iterator[int]:
    """A further namespace: its fd."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert _LIBC.unshare(CLONE_NEWNET) == 0
    there = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    enter(home)
    os.close(home)
    try:
        yield there
    finally:
        os.close(there)


def inside(space: int, work: Callable[[], Any]) -> Any:
    """What `work` answers (JSON) when it is called there, in a process of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer: Any = "died"
        try:
            signal.alarm(20)
            enter(space)
            answer = work()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        raw = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(raw) if raw else "killed"


def sh(*commands: str) -> None:
    """Run commands; each must end well."""
    for command in commands:
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def out(command: str) -> str:
    """What a command prints."""
    return subprocess.run(
        command.split(), capture_output=True, text=True, check=False
    ).stdout


def give(link: str, space: int) -> None:
    """Move a link into a namespace."""
    sh(f"ip link set {link} netns /proc/{os.getpid()}/fd/{space}")


def lease(link: str, mac: str) -> dict[str, str]:
    """What a DHCP server gives to `mac` on a link: address, router, dns, domain, mtu. RFC 2131."""
    raw = bytes.fromhex(mac.replace(":", ""))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
        udp.bind(("0.0.0.0", 68))  # noqa: S104 - a client that has no address yet
        udp.settimeout(5)
        asked = b"\x37\x05\x01\x03\x06\x0f\x1a"

        def ask(kind: int, more: bytes = b"") -> dict[int, bytes]:
            head = struct.pack("!BBBBIHHIIII", 1, 1, 6, 0, 0x1234, 0, 0x8000, 0, 0, 0, 0)
            head += raw.ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63"
            words = head + bytes([53, 1, kind]) + more + asked + b"\xff"
            udp.sendto(words, ("255.255.255.255", 67))
            answer = udp.recv(2000)
            options, place = {0: answer[16:20]}, 240
            while answer[place] != 255:
                length = answer[place + 1]
                options[answer[place]] = answer[place + 2 : place + 2 + length]
                place += 2 + length
            return options

        offer = ask(1)
        given = ask(3, b"\x32\x04" + offer[0] + b"\x36\x04" + offer[54])
    assert given[53] == b"\x05", "no DHCPACK"
    return {
        "address": socket.inet_ntoa(given[0]), "router": socket.inet_ntoa(given[3]),
        "dns": socket.inet_ntoa(given[6]), "mask": socket.inet_ntoa(given[1]),
        "domain": given.get(15, b"").decode(),
        "mtu": str(int.from_bytes(given.get(26, b"\0"), "big")),
    }

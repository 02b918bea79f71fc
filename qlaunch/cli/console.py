"""Be at a running machine's serial port, as at a terminal: all keys go to the
guest, and Ctrl-] leaves.

It is there for ports of type socket, pty and tcp. The machine runs on when you
leave, and its port is free for the next.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

from qlaunch.cli.reach import Reached, reach, talk
from qlaunch.cli.text import columns, nearest, say, write, write_json
from qlaunch.errors import EXIT_FAILED, EXIT_OK, HostError, Problem, UsageError
from qlaunch.vm.attach import Port, escape_key, flush_input, read_ports, relay

EXAMPLE = """\
example:
  qlaunch console win7                 its first serial port
  qlaunch console win7 serial1
  qlaunch console win7 --escape ^A     where Ctrl-] is hard to type
  qlaunch console win7 --list
in the profile:
  [[serial]]
  type = "socket"
"""
USABLE = ("unix", "pty", "tcp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, PORT, the escape key."""
    parser.add_argument("name", metavar="NAME", help="the machine's name (qlaunch ps)")
    parser.add_argument("port", metavar="PORT", nargs="?",
                        help="serial0 is the first [[serial]]; the first usable one when left out")
    parser.add_argument("--escape", metavar="KEY", default="^]", help="the key that leaves (^])")
    parser.add_argument("--list", action="store_true", help="show the ports and do no more")
    parser.add_argument("--json", action="store_true", help="the list, for machines")


def run(args: argparse.Namespace) -> int:
    """Relay until the escape key or the machine's end."""
    try:
        escape = escape_key(args.escape)
    except ValueError as error:
        raise UsageError(Problem("this cannot be the escape key", where="qlaunch console",
                                 found=args.escape, allowed=str(error),
                                 hint=f"qlaunch console '{args.name}' --escape ^A")) from None
    machine = reach(args.name)
    ports = _ports(machine)
    if args.list or args.json:
        return _list(ports, args)
    port = choose(ports, args.port, machine.name)
    fd = _open(machine, port)
    try:
        if sys.stdin.isatty():
            say(f"{machine.name}: {port.id}; {args.escape} leaves")
        ended = relay(fd, escape)
        flush_input(0)
    finally:
        os.close(fd)
    if sys.stdin.isatty():
        told = "the port was closed" if ended == "closed" else "left"
        say(f"\n{machine.name}: {told}")
    return EXIT_FAILED if ended == "signal" else EXIT_OK


def _ports(machine: Reached) -> list[Port]:
    """From QEMU; from the sockets that lie there when somebody else has its monitor."""
    try:
        return talk(machine, read_ports)
    except HostError:
        paths = sorted(Path(machine.socket_dir).glob("serial*.sock"))
        if not paths:
            raise
        return [Port(path.stem, "unix", str(path), False) for path in paths]


def _list(ports: list[Port], args: argparse.Namespace) -> int:
    if args.json:
        write_json([port._asdict() for port in ports])
        return EXIT_OK
    rows = [(p.id, p.kind, "yes" if p.taken and p.kind in USABLE else "-", p.where or "-")
            for p in ports]
    head = ("PORT", "TYPE", "TAKEN", "WHERE")
    write(columns(rows, head) if rows else "it has no ports\n")
    return EXIT_OK


def choose(ports: list[Port], wanted: str | None, name: str) -> Port:
    """The port that is meant. Raises UsageError or HostError with what to do instead."""
    usable = [port for port in ports if port.kind in USABLE]
    if wanted is None:
        free = [port for port in usable if not port.taken]
        if not usable:
            raise HostError(
                Problem(f"{name} has no serial port to connect to",
                        found=", ".join(f"{p.id}: {p.kind}" for p in ports) or "no ports",
                        hint='[[serial]] with type = "socket" in its profile is one')
            )
        port = (free or usable)[0]
    else:
        ids = [port.id for port in ports]
        found = next((port for port in ports if wanted in (port.id, port.id[6:])), None)
        if found is None:
            near = nearest(wanted, ids)
            raise UsageError(Problem("there is no such port", where="qlaunch console", found=wanted,
                                     allowed=", ".join(ids) or "none",
                                     hint=f"did you mean {near}?" if near else ""))
        port = found
    if port.kind not in USABLE:
        raise HostError(Problem("nobody can connect to this port", where=port.id, found=port.kind,
                                hint='type = "socket" in its [[serial]] is for that'))
    if port.taken:
        raise HostError(Problem("somebody is at this port already", where=port.id,
                                found=port.where, hint="one at a time can be"))
    return port


def _open(machine: Reached, port: Port) -> int:
    from qlaunch.run.talk import plug

    try:
        if port.kind == "unix":
            return plug(machine, port.where).detach()
        if port.kind == "tcp":
            host, _, number = port.where.rpartition(":")
            sock = socket.create_connection((host.strip("[]"), int(number)), timeout=10)
            sock.setblocking(False)
            return sock.detach()
        return os.open(port.where, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = f"ls -l '{port.where}'" if port.kind == "pty" else ""
        raise HostError(Problem(f"the port cannot be reached: {error.strerror or error}",
                                where=port.where, hint=hint)) from None

"""What the parts of a plan share while it is being made: inputs, slots, fds, problems.

Only `make.py` creates one; it does not leave the room.
"""

from __future__ import annotations

from typing import Any

from qlaunch.errors import Problem, Severity
from qlaunch.facts.model import HostFacts
from qlaunch.plan.eras import ERAS, Era
from qlaunch.plan.inherited import FdKind, PlannedFd
from qlaunch.plan.model import (
    FIRST_FD,
    Account,
    Place,
    PlannedHelper,
    PlannedMake,
    PlannedPort,
)
from qlaunch.plan.paths import Paths, machine_paths
from qlaunch.plan.slots import BRIDGE, EXTRA_PORTS, FIRST_EXTRA, SlotMap, extra_port
from qlaunch.plan.steps import Step
from qlaunch.profile.profile import Profile
from qlaunch.values import CpuSet, GuestSlot


class Draft:
    """A plan in the making."""

    def __init__(
        self, profile: Profile, facts: HostFacts, account: Account | None, uuid: str = "",
    ) -> None:
        self.profile = profile
        self.facts = facts
        self.account = account
        self.uuid = uuid
        self.paths: Paths = machine_paths(profile.name, facts.invoker)
        self.era: Era = ERAS[profile.guest]
        self.slots = SlotMap(pc=self.is_pc)
        self.problems: list[Problem] = []
        self.fds: list[PlannedFd] = []
        self.places: dict[str, Place] = {}
        self.ports: list[PlannedPort] = []
        self.vgpus: dict[int, Any] = {}  # what was chosen for the [[vgpu]] tables
        self.wants_gl = ""  # why the screen has to be drawn with OpenGL
        self.first_steps: list[Step] = []  # what makes devices that others take
        self.steps: list[Step] = []  # host steps besides the taking of devices
        self.last_steps: list[Step] = []  # undone first, when QEMU has ended
        self.isolated = CpuSet()  # CPUs that the host's groups leave; the machine's is beside those
        self.helpers: list[PlannedHelper] = []
        self.makes: list[PlannedMake] = []
        self.needs: dict[str, str] = {}  # QEMU device type -> the key that wants it
        # The key of whoever is plugged into the bus usb.0.
        self.wants_usb = "machine.usb" if profile.machine.usb not in (None, "none") else ""
        self.wants_agent = ""  # the key that wants the SPICE agent's channel
        self.usb_hub = ""  # the key of the first that is plugged into a hub of that bus
        self.wants_channel = ""  # the key of whoever is plugged into the bus channel.0
        self.locked = 0  # bytes of memory that count against RLIMIT_MEMLOCK beside the guest's
        self.share_memory = ""  # the key of whoever needs guest memory that its helper can map
        self.decided: dict[str, Any] = {}  # further fields of the Plan, by name

    @property
    def is_pc(self) -> bool:
        """The old i440fx machine, without PCI Express."""
        return self.profile.machine.type.split("-")[0] == "pc" and (
            "q35" not in self.profile.machine.type
        )

    @property
    def bus(self) -> str:
        """Id of the guest's bus 0."""
        return "pci.0" if self.is_pc else "pcie.0"

    def fd(
        self, kind: FdKind, of: str = "", *, writable: bool = True, direct: bool = False,
        device: str | None = None,
    ) -> int:
        """Reserve the next fixed fd number."""
        number = FIRST_FD + len(self.fds)
        self.fds.append(
            PlannedFd(number=number, kind=kind, of=of, writable=writable, direct=direct,
                      device=device)
        )
        return number

    def place(
        self, kind: str, ident: str, key: str, *, index: int = 0, addr: GuestSlot | None = None
    ) -> Place:
        """The place of the index-th device of a kind, kept in `places` as `ident`.

        Kinds of `slots.EXTRA_PORTS` go on a root port of their own (on pc behind a bridge), all
        others on bus 0.
        """
        if kind in EXTRA_PORTS and addr is None:
            where = Place(*self.slots.extra_place(kind, index, key))
        else:
            where = Place(self.bus, self.slots.take(kind, index, key, addr))
        self.places[ident] = where
        return where

    def usb_place(self, kind: str, ident: str, key: str, *, index: int = 0) -> Place:
        """The port of the index-th USB device of a kind, kept in `places` as `ident`."""
        from qlaunch.plan.usbports import BUS, usb_port

        self.wants_usb = self.wants_usb or key
        self.places[ident] = where = Place(BUS, port=usb_port(self, kind, index, key))
        return where

    def extra_ports(self) -> None:
        """What `place` put devices on, after all families are placed: root ports, or the bridge."""
        for addr in sorted(self.slots.extras):
            if self.is_pc:
                self._bridge(addr, self.slots.extras[addr])
                continue
            slot, function = int(addr[:2], 16), int(addr[3:])
            number = FIRST_EXTRA + (slot << 3 | function)  # the same whatever else there is
            self.ports.append(
                PlannedPort(
                    id=extra_port(addr), type=self.era.extra_port,
                    addr=self.slots.reserve(GuestSlot(addr), self.slots.extras[addr]),
                    chassis=number, port=number,
                    multifunction=function == 0,
                    why=f"rule: {self.slots.extras[addr]} is plugged into a port of its own",
                )
            )

    def _bridge(self, addr: str, key: str) -> None:
        self.need("pci-bridge", key)
        self.ports.append(PlannedPort(
            id=BRIDGE, type="pci-bridge", addr=self.slots.reserve(GuestSlot(addr), key),
            chassis=1, port=0, multifunction=False, why=f"rule: {key} is plugged into a bridge",
        ))

    def need(self, device: str, key: str) -> None:
        """A QEMU device type that the machine has; one this QEMU lacks is a fault of `key`."""
        self.needs.setdefault(device, key)

    def program(self, name: str, key: str, package: str, *, optional: bool = False) -> str:
        """The absolute path of a program (its name when nobody looked); a missing one is a fault.

        `package` tells what brings it: "swtpm (Debian, Fedora, Arch)". The name must be among
        those that `plan/wanted.py` asks for.
        """
        found = self.facts.programs.get(name, name)
        if not found and not optional:
            self.problem(f"{name} is not installed", key, hint=f"install {package}")
        return found

    def helper(self, helper: PlannedHelper) -> int:
        """Note a daemon; the fd number of QEMU's end of its socket."""
        self.helpers.append(helper)
        return self.fd("helper", helper.id)

    def problem(
        self, message: str, where: str, *, found: str = "", allowed: str = "", hint: str = "",
        severity: Severity = "error",
    ) -> None:
        """Note a fault, a warning or a note."""
        self.problems.append(Problem(message, where, found, allowed, hint, severity))

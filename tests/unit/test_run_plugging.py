"""A device goes back to the host while its machine runs, and comes again: on the fake kernel, with
the detaching process killed at every moment, and its launcher ending the machine afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from qlaunch.errors import HostError, NotRestoredError, UsageError
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.model import Place, PlannedCard
from qlaunch.plan.plugs import PlannedUsb
from qlaunch.run import plugging, usbplug
from qlaunch.run.beside import read_unplugged
from qlaunch.run.engine import Engine
from qlaunch.run.info import Info, read_info, write_info
from qlaunch.run.journal import Record, create_journal, make_header, read_journal
from qlaunch.run.parts import named_parts
from qlaunch.run.plugging import attach_cards, detach_cards
from qlaunch.run.usbplug import note_unplugged
from qlaunch.values import GuestSlot, PciAddress
from qlaunch.vm.monitor import Event, Events, QmpError
from qlaunch.vm.unplug import unplug
from tests.fake.kernel import FakeKernel
from tests.fake.kernel_tree import snapshot
from tests.fake.loop import run
from tests.unit.test_run_on_fake_kernel import (
    AUDIO,
    GPU,
    STEPS,
    Killer,
    in_process,
    kernel,
    recover,
    watch_power,
)

__all__ = ["kernel"]
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def card(address: PciAddress, number: int, **changes: Any) -> PlannedCard:
    slot = GuestSlot(f"00.{address.function}")
    values: dict[str, Any] = {
        "id": f"hostdev{number}", "key": f"pci[{number}]", "address": address,
        "place": Place("root", slot), "iommu_group": 1,
    }
    return PlannedCard(**values | changes)


CARDS = (card(GPU, 0), card(AUDIO, 1))


def info_for(runtime: Path, cards: tuple[PlannedCard, ...] = CARDS) -> Info:
    return Info(
        name="win7", uuid="", profile="", started=0.0, launcher=1, runtime_dir=str(runtime),
        socket_dir=str(runtime), state_dir=str(runtime), stop_timeout=1.0, cards=cards,
        devices=tuple(c.address for c in cards),
    )


class Machine:
    """A machine whose steps are applied, and a QEMU that does what it is told."""

    def __init__(self, kernel: FakeKernel, base: Path) -> None:
        self.kernel = kernel
        self.base = str(base)
        self.runtime = base / "win7"
        self.runtime.mkdir(parents=True)
        self.info = info_for(self.runtime)
        self.has = {c.id for c in CARDS}
        self.alive = True
        self.refuses = ""
        self.said: list[str] = []
        host = kernel.host()
        journal = create_journal(self.runtime, make_header(host, "win7"))
        self.engine = Engine(host, journal, HANDLERS)
        self.engine.apply(STEPS)
        kernel.open_group(1)

    def detach(self) -> None:
        detach_cards(
            self.base, self.info, CARDS, timeout=1, say=self.said.append,
            host=self.kernel.host(),
        )

    def attach(self, check: Callable[[Sequence[PciAddress]], None] = lambda _: None) -> None:
        attach_cards(
            self.base, self.info, CARDS, check=check, say=self.said.append,
            host=self.kernel.host(),
        )

    def end(self) -> tuple[str, ...]:
        """QEMU ends, and its launcher gives back."""
        self.alive = False
        if self.has:
            self.kernel.close_group(1)
        self.has.clear()
        self.engine.catch_up(read_journal(self.runtime / "journal").records)
        outcome = self.engine.undo_all()
        assert outcome.left == ()
        return outcome.sentences

    # What stands in for QEMU

    async def unplug(self, monitor: object, idents: Sequence[str], **_: Any) -> None:
        assert list(idents) == ["hostdev0", "hostdev1"]
        if self.refuses:
            raise HostError(self.refuses)
        if self.has:
            self.kernel.close_group(1)
        self.has.clear()

    async def plug(self, monitor: object, devices: Sequence[Any], *, timeout: float) -> None:
        assert [d["id"] for d in devices] == ["hostdev1", "hostdev0"]
        assert devices[1] == {"driver": "vfio-pci", "host": GPU, "id": "hostdev0", "bus": "root",
                              "addr": "00.0"}
        if self.refuses:
            raise HostError(self.refuses)
        self.kernel.open_group(1)
        self.has |= {d["id"] for d in devices}

    async def plugged_in(self, monitor: object) -> set[str]:
        return set(self.has)


@pytest.fixture
def machine(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    before = snapshot(kernel.root)
    made = prepared(kernel, kernel.root / ".model/base", monkeypatch)
    yield made
    made.end()
    assert snapshot(kernel.root) == before


def prepared(kernel: FakeKernel, base: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(kernel, base)
    monkeypatch.setattr(plugging, "find_qemu", lambda _: 1 if made.alive else None)
    monkeypatch.setattr(plugging, "with_monitor", lambda _, work: run(work(None)))
    for name in ("unplug", "plug", "plugged_in"):
        monkeypatch.setattr(plugging, name, getattr(made, name))
    return made


def test_detached_used_by_the_host_and_attached_again(machine: Machine) -> None:
    kernel = machine.kernel
    cold = watch_power(kernel, GPU)
    machine.detach()
    assert kernel.read(GPU, "d3cold_allowed") == "1"
    assert (kernel.driver_of(GPU), kernel.driver_of(AUDIO)) == ("bochs", "snd_hda_intel")
    assert machine.said == [
        "0000:01:00.0 was reset (pm); 0000:01:00.1 was reset (pm)",
        "0000:01:00.1 is back on snd_hda_intel", "0000:01:00.0 is back on bochs",
    ]
    machine.detach()  # nothing is left to do
    asked: list[Sequence[PciAddress]] = []
    machine.attach(asked.append)
    assert asked == [[GPU, AUDIO]]
    assert kernel.driver_of(GPU) == kernel.driver_of(AUDIO) == "vfio-pci"
    assert kernel.read(GPU, "d3cold_allowed") == "0"
    assert cold.read_text() == ""
    machine.attach()
    assert machine.said[-1] == "the guest has 0000:01:00.0, 0000:01:00.1 already"
    sentences = machine.end()
    assert [s for s in sentences if "is back" in s] == [
        "0000:01:00.1 is back on snd_hda_intel", "0000:01:00.0 is back on bochs",
    ]
    assert len((kernel.root / ".model/resets").read_text().split()) == 4


def test_what_is_detached_is_not_given_back_again_at_the_end(machine: Machine) -> None:
    machine.detach()
    machine.kernel.write(  # the host's own business from here on
        machine.kernel.root / f"sys/bus/pci/devices/{GPU}/d3cold_allowed", b"0")
    assert [s for s in machine.end() if "0000" in s] == []
    assert machine.kernel.read(GPU, "d3cold_allowed") == "0"
    machine.kernel.write(
        machine.kernel.root / f"sys/bus/pci/devices/{GPU}/d3cold_allowed", b"1")


def test_a_guest_that_keeps_it(machine: Machine) -> None:
    machine.refuses = "the guest refuses to let go of hostdev0"
    log = machine.kernel.log()
    with pytest.raises(HostError, match="refuses"):
        machine.detach()
    assert machine.kernel.log() == log
    machine.refuses = ""


def test_qemu_does_not_take_it_again(machine: Machine) -> None:
    machine.detach()
    machine.refuses = "vfio: failed to open"
    before = snapshot(machine.kernel.root)
    with pytest.raises(HostError, match="failed to open"):
        machine.attach()
    assert snapshot(machine.kernel.root) == before
    machine.refuses = ""


def test_the_host_has_begun_to_use_it(machine: Machine) -> None:
    machine.detach()
    log = machine.kernel.log()

    def held(addresses: Sequence[PciAddress]) -> None:
        raise HostError("0000:01:00.0 is in use: Xorg")

    with pytest.raises(HostError, match="Xorg"):
        machine.attach(held)
    assert machine.kernel.log() == log


def test_a_device_that_does_not_come_back_can_be_tried_again(machine: Machine) -> None:
    machine.has.clear()  # the guest let go, and yet somebody has the group open
    with pytest.raises(NotRestoredError, match="in use"):
        detach_cards(machine.base, machine.info, CARDS, timeout=1, say=print,
                     host=machine.kernel.host())
    machine.kernel.close_group(1)
    machine.detach()
    assert machine.kernel.driver_of(GPU) == "bochs"


def test_a_machine_that_ended_meanwhile_is_left_to_its_launcher(machine: Machine) -> None:
    log = machine.kernel.log()
    machine.alive = False
    with pytest.raises(HostError, match="has ended meanwhile"):
        machine.detach()
    assert machine.kernel.log() == log
    machine.has = {"hostdev0"}
    machine.kernel.open_group(1)


def test_a_group_goes_as_a_whole(machine: Machine) -> None:
    with pytest.raises(HostError, match=r"name them together: 0000:01:00.0 0000:01:00.1"):
        detach_cards(machine.base, machine.info, CARDS[:1], timeout=1, say=print,
                     host=machine.kernel.host())


def test_killed_at_every_moment_nothing_is_forgotten_or_returned_twice(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(kernel.root)
    killed = 0
    for n in range(1, 150, 4):  # by turns before, in and after a write
        machine = prepared(kernel, kernel.root / f".model/base-{n}", monkeypatch)
        killer = Killer(kernel.root / ".model", n)

        def there_and_again(machine: Machine = machine, killer: Killer = killer) -> None:
            killer.launcher = os.getpid()
            kernel.before_write = kernel.after_write = killer.hit
            machine.detach()
            machine.attach()

        status = in_process(there_and_again)
        kernel.before_write = kernel.after_write = None
        machine.has.clear()
        (kernel.root / ".model/open/1").unlink(missing_ok=True)
        if n % 8 == 1:  # by its launcher, which has its steps in memory, or by `recover`
            machine.end()
        else:
            assert in_process(lambda m=machine: recover(kernel, m.runtime / "journal")) == 0  # type: ignore[misc]
        assert snapshot(kernel.root) == before, f"killed at event {n}"
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
        killed += 1
    assert killed > 8


# -- which device -----------------------------------------------------------------------------

STICK = PlannedUsb(id="usbdev0", key="usb[0]", name="1-4", ident="046d:c52b")


def parts(text: str, cards: tuple[PlannedCard, ...] = CARDS) -> list[str]:
    info = info_for(Path("/nowhere"), cards)
    found = named_parts(info, [STICK], [text], "detach")
    return [c.id for c in found.cards] + [u.id for u in found.usbs]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("01:00.0", ["hostdev0", "hostdev1"]), ("0000:01:00.1", ["hostdev1", "hostdev0"]),
        ("hostdev0", ["hostdev0", "hostdev1"]), ("pci[1]", ["hostdev1", "hostdev0"]),
        ("usb[0]", ["usbdev0"]), ("1-4", ["usbdev0"]), ("046D:C52B", ["usbdev0"]),
    ],
)
def test_a_device_has_several_names_and_brings_its_card(text: str, found: list[str]) -> None:
    assert sorted(parts(text)) == sorted(found)


def test_what_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match=r"no such device(.|\n)*did you mean 0000:01:00\."):
        parts("0000:01:00.9")
    with pytest.raises(UsageError, match=r"a CD is changed(.|\n)*qlaunch media 'win7'"):
        parts("cd0")
    on_bus_0 = (card(GPU, 0, place=Place("pcie.0", GuestSlot("18.0"))),)
    with pytest.raises(HostError, match=r"nothing is hot-pluggable(.|\n)*pcie-root-port"):
        parts("01:00.0", on_bus_0)


def test_cards_are_written_for_others_to_read(tmp_path: Path) -> None:
    info = info_for(tmp_path)
    write_info(info)
    assert read_info(str(tmp_path)) == info


def test_what_is_unplugged_is_noted(tmp_path: Path) -> None:
    assert read_unplugged(str(tmp_path)) == set()
    for ident in ("usbdev0", "usbdev1"):
        note_unplugged(str(tmp_path), ident, out=True)
    assert read_unplugged(str(tmp_path)) == {"usbdev0", "usbdev1"}
    note_unplugged(str(tmp_path), "usbdev0", out=False)
    note_unplugged(str(tmp_path), "usbdev1", out=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(HostError, match="cannot be written"):
        note_unplugged(str(tmp_path / "none"), "usbdev0", out=True)


# -- a guest that says no ---------------------------------------------------------------------


class Refusing:
    """A monitor whose guest answers device_del with an error."""

    def __init__(self, *answers: QmpError | None) -> None:
        self.answers = list(answers)
        self.events = Events()

    def listen(self) -> Refusing:
        return self

    def __enter__(self) -> Events:
        return self.events

    def __exit__(self, *_: object) -> None:
        self.events.end()

    async def execute(self, command: str, arguments: Any = None) -> Any:
        if command == "qom-list":
            return [{"name": "hostdev0", "type": "child<vfio-pci>"},
                    {"name": "type", "type": "string"}]
        if command == "query-status":
            return {"status": "running"}
        if self.answers and (answer := self.answers.pop(0)):
            raise answer
        for path in ("/machine/peripheral/other", "/machine/peripheral/hostdev0"):
            self.events.put(Event("DEVICE_UNPLUG_GUEST_ERROR", {"path": path}, 0.0))
        return {}


def test_a_refusal_is_told_at_once() -> None:
    with pytest.raises(HostError, match="the guest refuses to let go of hostdev0"):
        run(unplug(Refusing(), ["hostdev0"], say=print))  # type: ignore[arg-type]


def test_one_that_was_asked_before_is_waited_for() -> None:
    pending = QmpError("device_del", "GenericError",
                       "Device hostdev0 is already in the process of unplug")
    with pytest.raises(HostError, match=r"has not let go of hostdev0 within 0\.1 s"):
        run(unplug(Refusing(pending), ["hostdev0"], timeout=0.1, say=print))  # type: ignore[arg-type]


# -- USB --------------------------------------------------------------------------------------


def test_a_usb_device_is_out_until_attach(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def out(monitor: object, usb: PlannedUsb) -> None:
        asked.append(f"out {usb.id}")

    async def come(monitor: object, usb: PlannedUsb, node: str) -> None:
        asked.append(f"in {usb.id} {node}")

    monkeypatch.setattr(usbplug, "with_monitor", lambda _, work: run(work(None)))
    monkeypatch.setattr(usbplug, "plugged_in", machine.plugged_in)
    monkeypatch.setattr(usbplug, "_out", out)
    monkeypatch.setattr(usbplug, "_in", come)
    monkeypatch.setattr(usbplug, "_node", lambda _: "/dev/bus/usb/001/004")
    host = machine.kernel.host()
    usbplug.detach_usbs(machine.base, machine.info, [STICK], machine.said.append, host)
    assert read_unplugged(str(machine.runtime)) == {"usbdev0"}
    assert machine.said[-1] == "the USB device 1-4 [046d:c52b] is out of the guest"
    usbplug.attach_usbs(machine.base, machine.info, [STICK], machine.said.append, host)
    assert read_unplugged(str(machine.runtime)) == set()
    assert asked == ["out usbdev0", "in usbdev0 /dev/bus/usb/001/004"]


def test_catching_up_with_what_others_wrote(machine: Machine) -> None:
    """Steps that others undid are gone, theirs are known, and what they began is undone afresh."""
    records: tuple[Record, ...] = read_journal(machine.runtime / "journal").records
    pending = machine.engine.pending
    machine.engine.catch_up(records)
    assert machine.engine.pending == pending
    machine.detach()
    machine.engine.catch_up(read_journal(machine.runtime / "journal").records)
    assert [type(s).__name__ for s in machine.engine.pending] == ["LoadModule", "ReserveHugePages"]

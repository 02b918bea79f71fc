"""The slot map: what is added or taken away moves nothing else; equal inputs, an equal plan."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlaunch.plan.model import Place, Plan
from qlaunch.plan.slots import (
    BRIDGE_SLOT,
    BRIDGED,
    EXTRA_PORTS,
    FUNCTIONS,
    MAX_PORTS,
    PC_SLOTS,
    PORT_SLOT,
    SLOTS,
    WITH_ADDR,
)
from qlaunch.plan.usbports import HUBS, PORTS
from qlaunch.profile.profile import Profile
from qlaunch.profile.tables import build
from tests.fake.plans import NET, QEMU, device, host, planned, said

CARDS = [device(f"{n:02x}:00.0", f"1234:{n:04x}", NET, group=n) for n in range(16, 20)]
HOST = host(*CARDS, qemu=msgspec.structs.replace(QEMU, devices=()))
PARTS = {
    "disk": '[[disk]]\nfile = "/d{}"\n',
    "sata": '[[disk]]\nfile = "/s{}"\nbus = "sata"\n',
    "ide": '[[disk]]\nfile = "/i{}"\nbus = "ide"\n',
    "cdrom": '[[cdrom]]\nfile = "/c{}"\n',
    "ide-cd": '[[cdrom]]\nfile = "/ide-cd{}"\nbus = "ide"\n',
    "net": "[[net]]\nuser = {{}}\n",
    "pci": '[[pci]]\ndevice = "{:02x}:00.0"\n',
    "straight": '[[pci]]\ndevice = "{:02x}:00.0"\nport = "none"\n',
    "balloon": "[balloon]\n",
    "audio": "[audio]\n",
    "usb-audio": '[audio]\nmodel = "usb"\n',
    "controller": '[[controller]]\ntype = "ahci"\n',
    "hba": '[[controller]]\ntype = "virtio-scsi"\n',
    "scsi": '[[disk]]\nfile = "/scsi{}"\nbus = "scsi"\n',
    "scsi-cd": '[[cdrom]]\nfile = "/scsi-cd{}"\nbus = "scsi"\n',
    "nvme": '[[disk]]\nfile = "/nvme{}"\nbus = "nvme"\n',
    "stick": '[[disk]]\nfile = "/stick{}"\nbus = "usb"\n',
    "usb-cd": '[[cdrom]]\nfile = "/usb-cd{}"\nbus = "usb"\n',
    "rng": "[rng]\n",
    "watchdog": "[watchdog]\n",
    "vsock": "[vsock]\n",
    "agent": "[agent]\n",
    "channel": '[[channel]]\nname = "org.example.{}"\n',
    "input": '[[input]]\ntype = "tablet"\nbus = "virtio"\n',
    "tablet": '[[input]]\ntype = "tablet"\n',
    "serial": '[[serial]]\nfile = "/isa{}"\n',
    "usb-serial": '[[serial]]\nfile = "/usb{}"\nbus = "usb"\n',
    "pci-serial": '[[serial]]\nfile = "/pci{}"\nbus = "pci"\n',
    "console": '[[serial]]\nfile = "/virtio{}"\nbus = "virtio"\n',
    "parallel": '[[parallel]]\nfile = "/parallel{}"\n',
    "usb": '[[usb]]\ndevice = "046d:{:04x}"\n',
    "redirect": "[[usb]]\nredirect = true\n",
    "shmem": '[[shmem]]\nname = "m{}"\nsize = "1M"\n',
    "share": '[[share]]\npath = "/h{0}"\ntag = "t{0}"\n',
    "vgpu": '[[vgpu]]\nkind = "mdev"\ntype = "t{}"\n',
}
# Keys of tables that there is one of: kind -> (table, line).
KEYS = {
    "iommu": ("machine", 'iommu = "virtio"'),
    "pvpanic": ("machine", 'pvpanic = "pci"'),
    "vga": ("display", 'vga = "std"'),
    "cirrus": ("display", 'vga = "cirrus"'),
    "looking-glass": ("display", 'resolution = "1920x1080"'),
}
INSTEAD = {"usb-audio": "audio", "cirrus": "vga"}  # a machine has the one or the other
# kind -> how many of it the machine may have here, on every board
COMMON = {"disk": 6, "hba": 2, "scsi": 5, "scsi-cd": 3, "nvme": 2, "net": 4, "pci": 2,
          "balloon": 1, "vga": 1, "cirrus": 1, "audio": 1, "controller": 3, "share": 4, "rng": 1,
          "watchdog": 1, "vsock": 1, "agent": 1, "channel": 5, "pvpanic": 1, "input": 4,
          "serial": 4, "pci-serial": 8, "console": 4, "parallel": 3, "shmem": 2,
          "looking-glass": 1, "vgpu": 3, "usb-audio": 1}  # fmt: skip
PCIE = {"sata": 2, "cdrom": 3, "iommu": 1}
IDE = {"ide": 2, "ide-cd": 2, "pci": 3}
USB = {
    "xhci": {"stick": 3, "usb-cd": 2, "tablet": 6, "usb-serial": 4, "usb": 4, "redirect": 2},
    "ehci": {"stick": 2, "usb-cd": 1, "tablet": 3, "usb-serial": 2, "usb": 1, "redirect": 3},
    "uhci": {"stick": 1, "usb-cd": 1, "tablet": 3, "usb-serial": 1, "usb": 1, "redirect": 1},
}
# What a machine is -> its first lines, and what it may have.
BOARDS: dict[str, tuple[str, str, dict[str, int]]] = {
    "q35": ("", "", PCIE | USB["xhci"] | {"straight": 2}),
    "q35 windows7": ('guest = "windows7"\n', "", PCIE | USB["ehci"] | {"pci": 3}),
    "q35 uhci": ("", 'usb = "uhci"\n', PCIE | USB["uhci"]),
    "pc": ("", 'type = "pc"\n', IDE | USB["xhci"]),
    "pc windows7": ('guest = "windows7"\n', 'type = "pc"\n', IDE | USB["ehci"]),
    "pc uhci": ("", 'type = "pc"\nusb = "uhci"\n', IDE | USB["uhci"]),
}
COUNTS = {board: COMMON | more for board, (_, _, more) in BOARDS.items()}
Counts = dict[str, int]


def text_of(counts: Counts, board: str = "q35") -> str:
    """The same device is always the same table: cards are numbered by kind."""
    first = {"pci": 16, "straight": 18}
    head, machine, _ = BOARDS[board]
    shown = "looking-glass" if counts.get("looking-glass") else (
        "spice" if counts.get("redirect") else "none"
    )
    lines = {"machine": [machine], "display": [f'type = "{shown}"\n']}
    for kind, (table, line) in KEYS.items():
        lines[table] += [line + "\n"] * counts.get(kind, 0)
    return head + "".join(f"[{table}]\n{''.join(some)}" for table, some in lines.items()) + "".join(
        PARTS[kind].format(first.get(kind, 0) + n)
        for kind in PARTS for n in range(counts.get(kind, 0))
    )


def spot(place: Place) -> str:
    return f"{place.bus} {place.addr or place.port}"


def addresses(plan: Plan) -> dict[str, str]:
    """What is where, by what it is: ids with numbers are of the tables' order."""
    found = {f"{d.file}": f"{spot(d.place)} {d.unit} {d.target}" for d in plan.disks if not d.via}
    found |= {d.file: spot(plan.places[d.via]) for d in plan.disks if d.via}
    found |= {f"net{n.index} {n.mac}": spot(n.place) for n in plan.nics}
    found |= {f"card {c.address}": spot(c.place) for c in plan.cards}
    found |= {f"port {p.id}": f"pcie.0 {p.addr} {p.chassis}" for p in plan.ports}
    found |= {s.path: spot(s.place) if s.place else f"{s.device} {s.nth}" for s in plan.serials}
    found |= {f"channel {c.name}": f"channel.0 {c.number}" for c in plan.channels}
    found |= {u.ident: spot(u.place) for u in plan.usbs if u.place and not u.redirect}
    for name, places in (
        ("redirected", [u.place for u in plan.usbs if u.place and u.redirect]),
        ("tablet", [i.place for i in plan.inputs if i.place.port]),
        ("virtio input", [i.place for i in plan.inputs if i.place.addr]),
    ):
        found |= {f"{name} {n}": spot(place) for n, place in enumerate(places)}
    ordered = ("disk", "cd", "serial", "usbdev", "input")
    return found | {n: spot(p) for n, p in plan.places.items() if not n.startswith(ordered)}


@st.composite
def machines(draw: st.DrawFn) -> tuple[str, Counts, Counts]:
    """A board, what it has, and what it has with one device more (or as many, when it is full)."""
    board = draw(st.sampled_from(sorted(BOARDS)))
    most = COUNTS[board]
    counts = draw(st.fixed_dictionaries({k: st.integers(0, n) for k, n in most.items()}))
    kind = draw(st.sampled_from(sorted(most)))
    for one, other in INSTEAD.items():
        if kind == one or (counts[one] and kind != other):
            counts[other] = 0
        else:
            counts[one] = 0
    return board, counts, counts | {kind: min(counts[kind] + 1, most[kind])}


@settings(max_examples=120, deadline=None)
@given(machines())
def test_one_device_more_or_less_moves_no_other(machine: tuple[str, Counts, Counts]) -> None:
    board, counts, more = machine
    before, after = planned(text_of(counts, board), HOST), planned(text_of(more, board), HOST)
    assert said(before) == said(after) == []
    old, new = addresses(before), addresses(after)
    assert {k: new[k] for k in old} == old
    shared = ("channel.0", "scsi1", "port05-3 00.0")
    single = [v for v in new.values() if not v.startswith(shared)]
    assert len(single) == len(set(single))


@settings(max_examples=30, deadline=None)
@given(machines())
def test_equal_inputs_give_an_equal_plan(machine: tuple[str, Counts, Counts]) -> None:
    text = text_of(machine[1], machine[0])
    assert planned(text, HOST) == planned(text, HOST)


@pytest.mark.parametrize("board", BOARDS)
def test_a_machine_may_have_all_at_once(board: str) -> None:
    everything = COUNTS[board] | dict.fromkeys(INSTEAD, 0)
    plan = planned(text_of(everything, board), HOST)
    assert said(plan) == []
    assert {*PARTS, *KEYS} == {kind for counts in COUNTS.values() for kind in counts}


def ranges(slots: dict[str, tuple[int, int]]) -> list[int]:
    return [n for first, count in slots.values() for n in range(first, first + count)]


def test_the_ranges_of_the_map_do_not_overlap() -> None:
    ports = [port for some in EXTRA_PORTS.values() for port in some]
    assert len(ports) == len(set(ports))
    taken = [0x00, PORT_SLOT, 0x1F, *ranges(SLOTS), *{int(port[:2], 16) for port in ports}]
    assert sorted(taken) == list(range(0x20))
    assert MAX_PORTS == 8  # functions of one slot

    taken = [0x00, 0x01, int(BRIDGE_SLOT[:2], 16), *ranges(PC_SLOTS)]
    assert len(taken) == len(set(taken))
    assert max(taken) <= 0x1F
    behind = [0x00, *ranges(BRIDGED)]  # 0 is its hot-plug controller's
    assert len(behind) == len(set(behind))
    assert max(behind) <= 0x1F
    assert {kind: count for kind, (_, count) in BRIDGED.items()} == {
        kind: len(some) * FUNCTIONS.get(kind, 1) for kind, some in EXTRA_PORTS.items()
        if kind != "iommu"
    }


@pytest.mark.parametrize(("model", "own"), [("xhci", 15), ("ehci", 6), ("uhci", 2)])
def test_the_ports_of_a_usb_controller_do_not_overlap(model: str, own: int) -> None:
    hub = HUBS[model]
    ports = [hub, *(port for some in PORTS[model].values() for port in some)]
    allowed = {str(n) for n in range(1, own + 1)} | {f"{hub}.{n}" for n in range(1, 9)}
    assert len(ports) == len(set(ports))
    assert set(ports) == allowed


def test_tables_with_a_place_of_their_own() -> None:
    """The hint that says `addr` is for these."""
    single = ("balloon", "rng", "watchdog", "vsock", "audio")
    whole = build({"name": "vm", **{table: {} for table in single}})
    found = {t for t in Profile.__struct_fields__ if hasattr(getattr(whole, t), "addr")}
    lists = {t: text for t, text in PARTS.items() if text.startswith("[[")}
    for text in lists.values():
        plan = planned(text.format(16), HOST)
        table = text[2:].partition("]]")[0]
        found |= {table} if hasattr(getattr(plan.profile, table)[0], "addr") else set()
    assert found == WITH_ADDR


@pytest.mark.parametrize(
    ("board", "kind", "count"),
    [("q35", "disk", 8), ("q35", "net", 4), ("q35", "pci-serial", 8), ("pc", "pci-serial", 8),
     ("pc", "input", 4), ("pc", "share", 4), ("pc", "shmem", 2), ("q35", "shmem", 2),
     ("q35", "share", 4)],
)
def test_a_kind_that_is_full_is_told(board: str, kind: str, count: int) -> None:
    assert said(planned(text_of({kind: count}, board), HOST)) == []
    plan = planned(text_of({kind: count + 1}, board), HOST)
    key = PARTS[kind][2:].partition("]]")[0] + f"[{count}]" + ".bus" * (kind == "pci-serial")
    assert f"{key}: the slot map has {count} place(s) for this kind of device" in said(plan)
    assert all(p.hint for p in plan.problems)
    if kind == "pci-serial":
        assert not any("addr" in p.hint for p in plan.problems)
        return
    text = text_of({kind: count}, board) + PARTS[kind].format(99) + 'addr = "0x1d"\n'
    assert said(planned(text, HOST)) == []


@pytest.mark.parametrize("board", ["q35", "q35 windows7", "pc uhci"])
@pytest.mark.parametrize(
    "kind", ["stick", "usb-cd", "tablet", "usb-serial", "usb", "redirect"]
)
def test_a_usb_controller_that_is_full_is_told(board: str, kind: str) -> None:
    model = {"q35": "xhci", "q35 windows7": "ehci", "pc uhci": "uhci"}[board]
    named = {"stick": "disk", "usb-cd": "cdrom", "tablet": "input", "usb-serial": "serial",
             "redirect": "usb"}.get(kind, kind)
    count = len(PORTS[model][named])
    assert said(planned(text_of({kind: count}, board), HOST)) == []
    plan = planned(text_of({kind: count + 1}, board), HOST)
    (problem,) = [p for p in plan.problems if p.severity == "error"]
    assert problem.message == (
        f"the {model} controller has {count} port(s) for this kind of device")
    assert problem.where.startswith(f"{named}[{count}]")
    assert problem.hint
    assert ("xhci" in problem.hint) == (model != "xhci")


@pytest.mark.parametrize(
    ("addr", "who"),
    [("08", "disk[0]"), ("00", "the host bridge"), ("1f", "the chipset"), ("1f.3", "the chipset"),
     ("05.3", "serial[0].bus")],
)
def test_two_devices_in_one_slot(addr: str, who: str) -> None:
    text = '[[disk]]\nfile = "/a"\n[[net]]\nuser = {}\n' + f'addr = "{addr}"\n'
    plan = planned(text + '[[serial]]\nbus = "pci"\n')
    assert [line.partition(": ")[2] for line in said(plan)] == [
        f"guest slot {addr if '.' in addr else addr + '.0'} is already taken by {who}"
    ]
    assert plan.problems[0].where == "net[0].addr"
    assert plan.problems[0].hint


def test_an_own_place_is_kept_and_frees_none() -> None:
    plan = planned('[[disk]]\nfile = "/a"\naddr = "0x5.1"\n[[disk]]\nfile = "/b"\n')
    assert [d.place.addr for d in plan.disks] == ["05.1", "09.0"]

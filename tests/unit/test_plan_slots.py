"""The slot map: what is added or taken away moves nothing else; equal inputs, an equal plan."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlaunch.plan.model import Plan
from qlaunch.plan.slots import MAX_PORTS, PORT_SLOT, SLOTS
from tests.fake.plans import NET, device, host, planned, said

CARDS = [device(f"{n:02x}:00.0", f"1234:{n:04x}", NET, group=n) for n in range(16, 20)]
HOST = host(*CARDS)
PARTS = {
    "disk": '[[disk]]\nfile = "/d{}"\n',
    "sata": '[[disk]]\nfile = "/s{}"\nbus = "sata"\n',
    "cdrom": '[[cdrom]]\nfile = "/c{}"\n',
    "net": "[[net]]\nuser = {{}}\n",
    "pci": '[[pci]]\ndevice = "{:02x}:00.0"\n',
    "straight": '[[pci]]\ndevice = "{:02x}:00.0"\nport = "none"\n',
    "balloon": "[balloon]\n",
    "vga": '[display]\nvga = "std"\n',
    "audio": "[audio]\n",
    "controller": '[[controller]]\ntype = "ahci"\n',
    "iommu": '[machine]\niommu = "virtio"\n',
    "hba": '[[controller]]\ntype = "virtio-scsi"\n',
    "scsi": '[[disk]]\nfile = "/scsi{}"\nbus = "scsi"\n',
    "scsi-cd": '[[cdrom]]\nfile = "/scsi-cd{}"\nbus = "scsi"\n',
    "nvme": '[[disk]]\nfile = "/nvme{}"\nbus = "nvme"\n',
    "stick": '[[disk]]\nfile = "/stick{}"\nbus = "usb"\n',
    "rng": "[rng]\n",
    "watchdog": "[watchdog]\n",
    "vsock": "[vsock]\n",
    "agent": "[agent]\n",
    "pvpanic": '[machine]\npvpanic = "pci"\n',
    "input": '[[input]]\ntype = "tablet"\nbus = "virtio"\n',
    "tablet": '[[input]]\ntype = "tablet"\n',
    "serial": '[[serial]]\nbus = "pci"\n',
    "shmem": '[[shmem]]\nname = "m{}"\nsize = "1M"\n',
    "share": '[[share]]\npath = "/h{0}"\ntag = "t{0}"\n',
    "vgpu": '[[vgpu]]\nkind = "mdev"\ntype = "t{}"\n',
}
# kind -> how many of it the machine may have here
FULL = {"disk": 8, "net": 4}  # of which NVMe drives have the last ones
COUNTS = {"disk": 6, "sata": 2, "hba": 2, "scsi": 5, "scsi-cd": 3, "nvme": 2,
          "stick": 1, "cdrom": 3, "net": 4, "pci": 2, "straight": 2,
          "balloon": 1, "vga": 1, "audio": 1, "controller": 3, "share": 4,
          "rng": 1, "watchdog": 1, "vsock": 1, "agent": 1, "pvpanic": 1, "input": 4, "tablet": 1,
          "serial": 1, "shmem": 2, "vgpu": 3}  # fmt: skip


def text_of(counts: dict[str, int]) -> str:
    """The same device is always the same table: cards are numbered by kind."""
    first = {"pci": 16, "straight": 18}
    return "".join(
        PARTS[kind].format(first.get(kind, 0) + n) for kind in COUNTS
        for n in range(counts.get(kind, 0))
    )


def addresses(plan: Plan) -> dict[str, str]:
    """What is where, by what it is."""
    found = {f"{d.file}": f"{d.place.bus} {d.place.addr} {d.unit} {d.target}" for d in plan.disks}
    found |= {f"net{n.index} {n.mac}": f"{n.place.bus} {n.place.addr}" for n in plan.nics}
    found |= {f"card {c.address}": f"{c.place.bus} {c.place.addr}" for c in plan.cards}
    found |= {f"port {p.id}": f"{p.addr} {p.chassis}" for p in plan.ports}
    return found | {name: f"{p.bus} {p.addr}" for name, p in plan.places.items()}


machines = st.fixed_dictionaries({k: st.integers(0, n) for k, n in COUNTS.items()})


@settings(max_examples=60, deadline=None)
@given(machines, st.sampled_from(sorted(COUNTS)))
def test_one_device_more_or_less_moves_no_other(counts: dict[str, int], kind: str) -> None:
    more = counts | {kind: min(counts[kind] + 1, COUNTS[kind])}
    before, after = planned(text_of(counts), HOST), planned(text_of(more), HOST)
    assert said(before) == said(after) == []
    old, new = addresses(before), addresses(after)
    assert {k: new[k] for k in old} == old
    on_bus = [v for v in new.values() if v.startswith(("pcie.0 ", "ide.", "scsi0."))]
    assert len(on_bus) == len(set(on_bus))


@settings(max_examples=30, deadline=None)
@given(machines)
def test_equal_inputs_give_an_equal_plan(counts: dict[str, int]) -> None:
    assert planned(text_of(counts), HOST) == planned(text_of(counts), HOST)


def test_the_ranges_of_the_map_do_not_overlap() -> None:
    taken = [0x00, PORT_SLOT, 0x1F]
    for first, count in SLOTS.values():
        taken += range(first, first + count)
    assert len(taken) == len(set(taken))
    assert max(taken) == 0x1F
    assert MAX_PORTS == 8  # functions of one slot


@pytest.mark.parametrize("kind", ["disk", "net"])
def test_a_kind_that_is_full_is_told(kind: str) -> None:
    count = FULL[kind]
    assert said(planned(text_of({kind: count}), HOST)) == []
    plan = planned(text_of({kind: count + 1}), HOST)
    assert f"{kind}[{count}]: the slot map has {count} place(s) for this kind of device" in said(
        plan
    )
    assert all(p.hint for p in plan.problems)
    text = text_of({kind: count}) + PARTS[kind].format(99) + 'addr = "0x02"\n'
    assert said(planned(text, HOST)) == []


@pytest.mark.parametrize(
    ("addr", "who"),
    [("08", "disk[0]"), ("00", "the host bridge"), ("1f", "the chipset"), ("1f.3", "the chipset")],
)
def test_two_devices_in_one_slot(addr: str, who: str) -> None:
    text = '[[disk]]\nfile = "/a"\n[[net]]\nuser = {}\n' + f'addr = "{addr}"\n'
    plan = planned(text)
    assert [line.partition(": ")[2] for line in said(plan)] == [
        f"guest slot {addr if '.' in addr else addr + '.0'} is already taken by {who}"
    ]
    assert plan.problems[0].where == "net[0].addr"
    assert plan.problems[0].hint


def test_an_own_place_is_kept_and_frees_none() -> None:
    plan = planned('[[disk]]\nfile = "/a"\naddr = "0x5.1"\n[[disk]]\nfile = "/b"\n')
    assert [d.place.addr for d in plan.disks] == ["05.1", "09.0"]

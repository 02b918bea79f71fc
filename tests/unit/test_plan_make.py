"""The plan as a whole: whose it is, where its files are, what it asks of the host."""

from __future__ import annotations

import uuid

import pytest
from msgspec.structs import replace

from qlaunch.facts.model import HostFile
from qlaunch.plan.eras import HYPERV_NEEDS, hyperv_set
from qlaunch.plan.model import FIRST_FD
from qlaunch.plan.paths import Paths, machine_paths, runtime_root
from qlaunch.plan.steps import MakeBridge, OwnGroup, ReserveHugePages
from qlaunch.plan.wanted import facts_wanted
from tests.fake.plans import NET, ROOT, USER, device, host, planned, profile

SELF = replace(ROOT, uid=65534, gid=65534, name="nobody", home="/", asked=None, groups=(65534,))


@pytest.mark.parametrize(
    ("who", "runtime", "sockets", "state"),
    [
        (USER, "/run/user/1000/qlaunch/vm", "/run/user/1000/qlaunch/vm",
         "/home/user/.local/state/qlaunch/vm"),
        (replace(USER, runtime_dir=""), "/run/user/1000/qlaunch/vm", "/run/user/1000/qlaunch/vm",
         "/home/user/.local/state/qlaunch/vm"),
        (ROOT, "/run/qlaunch/vm", "/run/qlaunch/.by-uid/1000/vm",
         "/home/user/.local/state/qlaunch/vm"),
        (SELF, "/run/qlaunch/vm", "/run/qlaunch/.by-uid/65534/vm", "/var/lib/qlaunch/vm"),
        # [qemu] user = "other" below sudo: neither's home
        (replace(ROOT, uid=1001, home="/home/other"), "/run/qlaunch/vm",
         "/run/qlaunch/.by-uid/1001/vm", "/var/lib/qlaunch/vm"),
        (None, "/run/qlaunch/vm", "/run/qlaunch/vm", "/var/lib/qlaunch/vm"),
    ],
)  # fmt: skip
def test_where_a_machines_files_are(
    who: object, runtime: str, sockets: str, state: str
) -> None:
    plan = planned("", host(invoker=who))
    assert (plan.runtime_dir, plan.socket_dir, plan.state_dir) == (runtime, sockets, state)
    paths = machine_paths("vm", who)  # type: ignore[arg-type]
    assert paths == Paths(runtime, sockets, state)


def test_the_runtime_root() -> None:
    assert runtime_root(True, 1000, "/run/user/1000") == "/run/qlaunch"
    assert runtime_root(False, 1000, "/x") == "/x/qlaunch"
    assert runtime_root(False, 1000, "") == "/run/user/1000/qlaunch"


def test_whom_qemu_runs_as() -> None:
    assert planned("", host(invoker=USER)).account is None
    account = planned("", host(invoker=ROOT)).account
    assert account is not None
    assert (account.uid, account.gid, account.name) == (1000, 1000, "user")
    assert account.groups == ROOT.groups


@pytest.mark.parametrize(
    ("kvm", "groups"),
    [
        (HostFile(path="/dev/kvm", kind="char", gid=36, mode=0o660, readable=False), (36, 65534)),
        (HostFile(path="/dev/kvm", kind="char", gid=36, mode=0o666), (65534,)),
        (HostFile(path="/dev/kvm", kind="char", gid=0, mode=0o600, readable=False), (65534,)),
    ],
)
def test_root_gives_qemu_the_group_of_kvm_when_that_is_what_it_takes(
    kvm: HostFile, groups: tuple[int, ...]
) -> None:
    account = planned("", host(invoker=SELF, files=(kvm,))).account
    assert account is not None
    assert account.groups == groups


def test_the_uuid_is_the_names() -> None:
    plan = planned("")
    assert plan.uuid == str(uuid.uuid5(uuid.NAMESPACE_URL, "qlaunch:vm"))
    given = planned('uuid = "6F9619FF-8B86-4011-B42D-00C04FC964FF"\n')
    assert (given.uuid, given.uuid_why) == ("6f9619ff-8b86-4011-b42d-00c04fc964ff", "uuid")


def test_fds_are_numbered_without_gaps_and_shared_by_nobody() -> None:
    nic = device("04:00.0", "10ec:8168", NET, group=9)
    text = """
[[net]]
bridge = "br0"
queues = 2
[[serial]]
type = "file"
[[serial]]
type = "stdio"
[[pci]]
device = "04:00.0"
"""
    plan = planned(text, host(nic))
    assert [f.number for f in plan.fds] == list(range(FIRST_FD, FIRST_FD + len(plan.fds)))
    assert [f.kind for f in plan.fds[:3]] == ["lock", "control", "qmp"]
    assert plan.fd("control") == FIRST_FD + 1
    with pytest.raises(StopIteration):
        plan.fd("file")


def test_bridges_then_pages_come_before_the_owners_of_nodes() -> None:
    nic = device("04:00.0", "10ec:8168", NET, group=9)
    text = """
[machine]
hugepages = true
[[pci]]
device = "04:00.0"
[[net]]
bridge = "br7"
make_bridge = true
"""
    kinds = [type(s) for s in planned(text, host(nic)).steps]
    assert kinds[-3:] == [MakeBridge, ReserveHugePages, OwnGroup]


@pytest.mark.parametrize(
    ("text", "field", "wanted"),
    [
        ("", "pci", False), ('[[pci]]\ndevice = "1:0.0"\n'.replace("1:0", "01:00"), "pci", True),
        ("", "cpus", False), ('[cpu.pin]\nvcpus = ["0"]\n', "cpus", True),
        ("", "memory", False), ("[machine]\nhugepages = true\n", "memory", True),
        ("", "kvm", True), ('[machine]\naccel = "tcg"\n', "kvm", False),
        ("[[net]]\nuser = {}\n", "links", False), ('[[net]]\nbridge = "b"\n', "links", True),
        ('[[net]]\ntap = "t"\n', "links", True),
        ('[qemu]\nuser = "games"\n', "user", "games"), ('[qemu]\nbinary = "q"\n', "qemu", "q"),
    ],
)  # fmt: skip
def test_only_what_a_profile_needs_is_read(text: str, field: str, wanted: object) -> None:
    assert getattr(facts_wanted(profile(text), holders=False), field) == wanted


def test_every_file_of_a_profile_is_looked_at() -> None:
    text = """
[machine]
bios = "/bios"
acpi_tables = [{ file = "/table" }]
[[disk]]
file = "/disk"
[[cdrom]]
file = "/cd"
[[pci]]
device = "04:00.0"
rom = "/rom"
"""
    found = facts_wanted(profile(text), holders=True)
    assert set(found.files) == {"/bios", "/table", "/disk", "/cd", "/rom"}
    assert found.holders
    assert not facts_wanted(profile(text), holders=False).holders
    assert not facts_wanted(profile(""), holders=True).holders


def test_hyperv_sets_hold_what_each_member_needs() -> None:
    assert hyperv_set("windows10", False) == ((), "cpu.hyperv")
    assert hyperv_set("linux", None)[0] == ()
    assert hyperv_set("linux", True)[0]  # said, so the newest set
    assert "rule: windows7" in hyperv_set("windows7", None)[1]
    names, _ = hyperv_set("other", ("stimer",))
    assert set(names) == {"stimer", "synic", "time", "vpindex"}
    for era in ("windows7", "windows10", "windows11"):
        chosen, _ = hyperv_set(era, None)
        assert all(set(HYPERV_NEEDS.get(n, ())) <= set(chosen) for n in chosen)


@pytest.mark.parametrize(
    ("text", "base", "why"),
    [
        ('guest = "windows7"\n', "localtime", "rule: windows7 guests keep local time"),
        ("", "utc", ""),
        ('guest = "windows7"\n[machine]\nrtc = "utc"\n', "utc", "machine.rtc"),
    ],
)
def test_the_clock_is_the_eras_unless_said(text: str, base: str, why: str) -> None:
    from qlaunch.argv.render import plan_options

    (clock,) = (o for o in plan_options(planned(text)) if o.flag == "-rtc")
    assert clock.words[1] == f"base={base}"
    assert why in clock.why

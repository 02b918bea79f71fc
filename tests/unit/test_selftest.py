"""What a selftest's machine is made of, what its rounds are compared by, and how they are told."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from qlaunch.cli import selftest as verb
from qlaunch.cli.main import main
from qlaunch.errors import HostError, NotRestoredError, UsageError
from qlaunch.facts.model import HostFile
from qlaunch.plan.make import make_plan
from qlaunch.plan.steps import TakeDevice
from qlaunch.profile.read import Loaded, read_profile
from qlaunch.run import selftest
from qlaunch.run.compared import device_state, differences, host_state
from qlaunch.run.selftest import (
    DISK,
    Round,
    boot_disk,
    run_round,
    selftest_profile,
)
from qlaunch.run.session import Session
from qlaunch.values import PciAddress
from qlaunch.vm.process import Exit
from qlaunch.vm.watch import End
from tests.fake.kernel import FakeKernel
from tests.fake.plans import AUDIO, device, host, planned, said
from tests.fake.whole import EVENT, FOREIGN, NIC, WholeKernel

GPU = PciAddress("0000:01:00.0")
PROFILE = """\
name = "win7"
guest = "windows7"
[machine]
memory = "8G"
hugepages = "2M"
[cpu]
cores = 4
[[disk]]
file = "/the/guests/own.qcow2"
[[net]]
bridge = "br0"
[[usb]]
device = "046d:c52b"
[[pci]]
device = "01:00.0"
functions = "all"
x_vga = true
[hooks]
before = [["systemctl", "stop", "gdm"]]
[qemu]
args = ["-device", "pvpanic"]
"""


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    path = tmp_path / "win7.toml"
    path.write_text(PROFILE)
    path.chmod(0o600)
    return read_profile(path, [])


def test_nothing_of_the_guests_own_is_in_it(loaded: Loaded) -> None:
    made = selftest_profile(loaded.profile, "/tmp/sector.img", 2, hooks=True)
    assert made.name == "win7-selftest"
    assert made.pci == loaded.profile.pci
    assert made.hooks == loaded.profile.hooks
    assert [d.file for d in made.disk] == ["/tmp/sector.img"]
    assert (made.net, made.usb, made.cdrom, made.qemu.args) == ((), (), (), ())
    assert made.machine.memory == 512 << 20
    assert made.machine.hugepages is False
    assert made.machine.fw_cfg == {
        "opt/org.qlaunch/name": "win7-selftest", "opt/org.qlaunch/seconds": "2"}
    assert not selftest_profile(loaded.profile, "/x", 2, hooks=False).hooks.before


def test_a_profile_without_devices_has_nothing_to_test(tmp_path: Path) -> None:
    path = tmp_path / "plain.toml"
    path.write_text('name = "plain"\n[[disk]]\nfile = "/x"\n')
    with pytest.raises(UsageError, match=r"hands no device of the host(.|\n)*\[\[pci\]\]"):
        selftest_profile(read_profile(path, []).profile, "/x", 1, hooks=True)


def test_a_long_name_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text(f'name = "{"n" * 63}"\n[[pci]]\ndevice = "01:00.0"\nboot = 1\n')
    made = selftest_profile(read_profile(path, []).profile, "/x", 1, hooks=True)
    assert len(made.name) <= 63


def test_the_disk_can_be_read_by_every_account() -> None:
    path = Path(boot_disk(b"sector"))
    try:
        assert path.stat().st_mode & 0o777 == 0o644
        assert path.stat().st_size == DISK
        assert path.read_bytes().startswith(b"sector\0")
    finally:
        path.unlink()


def test_what_is_not_as_before_is_named(tmp_path: Path) -> None:
    kernel = FakeKernel(tmp_path)
    kernel.add_device(GPU, driver="bochs", methods="flr pm", nodes="drm/card")
    before = device_state(kernel.host(), [GPU])
    assert before[f"{GPU} driver"] == "bochs"
    assert differences(before, device_state(kernel.host(), [GPU])) == ()
    kernel.write(tmp_path / f"sys/bus/pci/devices/{GPU}/d3cold_allowed", b"0")
    kernel.write(tmp_path / "sys/bus/pci/drivers/bochs/unbind", GPU.encode())
    assert differences(before, device_state(kernel.host(), [GPU])) == (
        f"{GPU} d3cold_allowed: was 1, is 0", f"{GPU} driver: was bochs, is none",
        f"{GPU} nodes: was drm/card, is empty",
    )
    kernel.vanish(GPU)
    assert f"{GPU} is there: was yes, is no" in differences(
        before, device_state(kernel.host(), [GPU]))


def test_a_device_that_does_not_answer(tmp_path: Path) -> None:
    """A pipe that nobody writes to is opened as slowly as a file whose lock somebody holds."""
    kernel = FakeKernel(tmp_path)
    kernel.add_device(GPU, driver="bochs")
    before = device_state(kernel.host(), [GPU])
    override = tmp_path / f"sys/bus/pci/devices/{GPU}/driver_override"
    override.unlink()
    os.mkfifo(override)
    signal.alarm(60)
    try:
        after = device_state(kernel.host(deadline=0.5), [GPU])
    finally:
        signal.alarm(0)
        os.close(os.open(override, os.O_RDWR))
    assert differences(before, after) == (
        f"{GPU} answers: was empty, is no: what holds it hangs in the kernel",)


@pytest.mark.parametrize("forever", [False, True])
def test_a_guest_that_does_not_end_is_ended(
    forever: bool, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []

    def quick(self: Session) -> int:
        for number in range(2, 10):
            self.stage(number, "")
        deadline = time.monotonic() + 10
        while forever and not told:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.stage(10, "")
        self.story.say("win7: ended (the guest powered off), all given back")
        return 0

    monkeypatch.setattr(Session, "run", quick)
    monkeypatch.setattr(Session, "stage", lambda self, number, text: None)
    # A handler, and not a blocked signal: that would go to another thread of the test run.
    before = signal.signal(signal.SIGUSR1, lambda *_: told.append(True))
    try:
        one = run_round(1, loaded, lambda _: None, {}, [], base="", patience=0.2, quiet=True)  # type: ignore[arg-type, return-value]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert one.end == "the guest powered off"
    assert one.changed == ()
    assert one.run >= (0.2 if forever else 0)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_what_slices_are_made_of_is_compared_too(tmp_path: Path) -> None:
    """A profile with [[vgpu]] only takes no device from the host."""
    kernel = WholeKernel(tmp_path)
    kernel.fill()
    steps = [s for s in kernel.plan().steps if not isinstance(s, TakeDevice)]
    before = host_state(kernel.host(), steps)
    assert before["mdpy mediated devices"] == FOREIGN
    assert before[f"{NIC} sriov_numvfs"] == "0"
    assert differences(before, host_state(kernel.host(), steps)) == ()
    (tmp_path / EVENT[1:]).chmod(0o600)
    kernel.add_driver("igbvf")
    kernel.write(kernel.device(NIC) / "sriov_numvfs", b"2")
    parent = tmp_path / "sys/class/mdev_bus/mdpy/mdev_supported_types/mdpy-vga/create"
    kernel.write(parent, b"22222222-2222-3333-4444-555555555555")
    group = kernel.group(NIC)
    (tmp_path / f"dev/vfio/{group}").touch(mode=0o600)
    told = " ".join(differences(before, host_state(kernel.host(), steps)))
    for words in (f"{NIC} sriov_numvfs: was 0, is 2", f"{NIC} functions: was empty, is ",
                  f"mdpy mediated devices: was {FOREIGN}, is {FOREIGN} 22222222-",
                  f"{EVENT} owner: was of uid", f"{NIC} group: was without a node, is of uid"):
        assert words in told


def test_a_qemu_that_dies_is_a_round_that_failed(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Once its guest ran, as one does that a device brings down."""
    def died(self: Session, *_: Any) -> End:
        for number in range(6, 10):
            self.stage(number, "")
        return End("died", False, Exit(signal=11), detail="a (bad) end")

    monkeypatch.setattr(Session, "_live", died)
    base, plan = tmp_path / "run", planned("", host())
    plan = replace(plan, account=None, runtime_dir=str(base / plan.name), makes=(), fds=(),
                   socket_dir=str(base / plan.name), state_dir=str(tmp_path / "state"))
    made = loaded.replaced(selftest_profile(loaded.profile, "/x", 1, hooks=False))
    made = made.replaced(replace(made.profile, name=plan.name))
    one = run_round(1, made, lambda _: plan, {}, [], base=str(base), patience=60, quiet=True)
    assert (one.code, one.end) == (1, "QEMU died: signal SIGSEGV, a (bad) end")


def test_a_failed_round_ends_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = Round(number=2, take=1, start=1, run=1, give_back=1, end="QEMU died: exit code 1",
                 code=1)
    assert played(monkeypatch, tmp_path, [GOOD, dead, GOOD]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-2:] == [
        "round 2 failed: QEMU died: exit code 1", "everything is as before after 2 round(s)"]


def played(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rounds: list[Round | Exception], *words: str
) -> int:
    path = tmp_path / "win7.toml"
    path.write_text(PROFILE)
    plan = planned("", host())
    assert not plan.needs_root
    waiting = iter(rounds)

    def one(*args: Any, **kwargs: Any) -> Round:
        found = next(waiting)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(verb, "_plan", lambda loaded, holders: plan)
    monkeypatch.setattr(selftest, "run_round", one)
    if os.geteuid() == 0:
        monkeypatch.setattr(verb, "load", lambda args: read_profile(path, []))
    return main(["selftest", str(path), "--rounds", str(len(rounds)), *words])


GOOD = Round(number=1, take=0.51, start=1.2, run=3.4, give_back=0.25, end="the guest powered off")


def test_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert played(monkeypatch, tmp_path, [GOOD, GOOD]) == 0
    assert capsys.readouterr().out == (
        "ROUND  TAKE    START   RUN     RETURN  END\n"
        "1      0.51 s  1.20 s  3.40 s  0.25 s  the guest powered off\n"
        "1      0.51 s  1.20 s  3.40 s  0.25 s  the guest powered off\n"
        "everything is as before after 2 round(s)\n"
    )


def test_it_stops_at_the_first_round_that_changed_something(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Round(number=1, take=1, start=1, run=1, give_back=1, end="stopped by quit",
                changed=("x driver: was a, is b",))
    assert played(monkeypatch, tmp_path, [bad, GOOD]) == 3
    out = capsys.readouterr().out
    assert "stopped by quit; 1 things changed" in out
    assert "round 1: x driver: was a, is b\n" in out
    assert "as before" not in out


@pytest.mark.parametrize(("fault", "code"), [(HostError("no"), 1), (NotRestoredError("no"), 3)])
def test_a_round_that_fails_ends_it_and_the_others_are_shown(
    fault: HostError, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert played(monkeypatch, tmp_path, [GOOD, fault]) == code
    shown = capsys.readouterr()
    assert "as before" not in shown.out
    assert "error: no" in shown.err
    assert played(monkeypatch, tmp_path, [GOOD, fault], "--json") == code
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert [one["take"] for one in told["rounds"]] == [0.51]
    assert "no" in told["failed"]
    assert "error: no" in shown.err


def test_numbers_out_of_range(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "x", "--rounds", "0"]) == 2
    assert main(["selftest", "x", "--seconds", "1001"]) == 2
    assert "from 1 to 1000" in capsys.readouterr().err


def test_the_plan_of_its_machine(loaded: Loaded) -> None:
    """Our sector, the card where the profile has it, and nothing else."""
    made = selftest_profile(loaded.profile, "/tmp/sector.img", 1, hooks=True)
    sector = HostFile(path="/tmp/sector.img", kind="file", readable=True, size=DISK)
    card = device("01:00.0"), device("01:00.1", cls=AUDIO)
    facts = host(*card, files=(*host().files, sector))
    plan, own = make_plan(made, facts), make_plan(loaded.profile, facts)
    assert said(plan) == []
    assert plan.cards == own.cards
    assert [d.file for d in plan.disks] == ["/tmp/sector.img"]
    assert [d.read_only for d in plan.disks] == [True]
    assert (plan.nics, plan.usbs, plan.pins) == ((), (), None)
    takes = [s for s in plan.steps if isinstance(s, TakeDevice)]
    assert takes == [s for s in own.steps if isinstance(s, TakeDevice)]

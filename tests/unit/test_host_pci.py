"""Taking devices and giving them back, against the fake kernel: the end state is what counts."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.errors import HostError, StuckError
from qlaunch.host.handler import Host
from qlaunch.host.pci import TakeDeviceHandler
from qlaunch.plan.steps import TakeDevice
from qlaunch.values import PciAddress, PciId
from tests.fake.kernel import FakeKernel
from tests.fake.kernel_tree import HANG, Fault, snapshot

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

GPU = PciAddress("0000:01:00.0")
AUDIO = PciAddress("0000:01:00.1")
TAKE = TakeDevice(address=GPU, id=PciId("1234:1111"), subsystem=PciId("1af4:1100"))
HANDLER = TakeDeviceHandler()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    kernel = FakeKernel(tmp_path)
    kernel.add_driver("vfio-pci")
    kernel.add_device(GPU, driver="bochs")
    kernel.add_device(AUDIO, ids="8086:2668", driver="snd_hda_intel")
    yield kernel
    kernel.release()


def take(host: Host, step: TakeDevice = TAKE) -> dict[str, object]:
    captured = HANDLER.capture(host, step)
    HANDLER.apply(host, step, captured)
    return captured


def test_there_and_back(kernel: FakeKernel) -> None:
    before, host = snapshot(kernel.root), kernel.host()
    captured = take(host)
    assert kernel.driver_of(GPU) == "vfio-pci"
    assert kernel.read(GPU, "power/control") == "auto"
    assert HANDLER.undo(host, TAKE, captured) == "0000:01:00.0 is back on bochs"
    assert snapshot(kernel.root) == before


def test_undo_twice_is_the_same(kernel: FakeKernel) -> None:
    before, host = snapshot(kernel.root), kernel.host()
    captured = take(host)
    HANDLER.undo(host, TAKE, captured)
    assert HANDLER.undo(host, TAKE, captured) == "0000:01:00.0 is back on bochs"
    assert snapshot(kernel.root) == before


def test_a_device_without_a_driver_stays_without(kernel: FakeKernel) -> None:
    kernel.add_device("0000:02:00.0", group=2, matches="bochs")
    step, host = TakeDevice(address=PciAddress("0000:02:00.0")), kernel.host()
    before = snapshot(kernel.root)
    captured = take(host, step)
    assert HANDLER.undo(host, step, captured) == (
        "0000:02:00.0 is without a driver, as before"
    )
    assert snapshot(kernel.root) == before


@pytest.mark.parametrize("override", ["bochs", "vfio-pci", "(null)", "pci-stub"])
def test_an_override_that_was_there_is_there_again(kernel: FakeKernel, override: str) -> None:
    """Even one that contradicts the driver, or that somebody made by writing "(null)"."""
    host = kernel.host()
    path = kernel.root / "sys/bus/pci/devices" / GPU / "driver_override"
    kernel.write(path, f"{override}\n".encode())
    before = snapshot(kernel.root)
    captured = take(host)
    HANDLER.undo(host, TAKE, captured)
    if override != "(null)":  # which cannot be told from none, and is no driver's name
        assert snapshot(kernel.root) == before
    assert kernel.driver_of(GPU) == "bochs"


def test_a_driver_that_binds_by_override_only(kernel: FakeKernel) -> None:
    kernel.add_driver("pci-stub")
    kernel.add_device("0000:03:00.0", group=3)
    address, host = PciAddress("0000:03:00.0"), kernel.host()
    path = kernel.root / "sys/bus/pci"
    kernel.write(path / "devices" / address / "driver_override", b"pci-stub\n")
    kernel.write(path / "drivers/pci-stub/bind", address.encode())
    before = snapshot(kernel.root)
    step = TakeDevice(address=address)
    captured = take(host, step)
    assert HANDLER.undo(host, step, captured) == "0000:03:00.0 is back on pci-stub"
    assert snapshot(kernel.root) == before


def test_on_vfio_already_is_kept_and_left(kernel: FakeKernel) -> None:
    kernel.add_device("0000:04:00.0", driver="vfio-pci", group=4)
    step, host = TakeDevice(address=PciAddress("0000:04:00.0")), kernel.host()
    before = snapshot(kernel.root)
    captured = take(host, step)
    assert HANDLER.undo(host, step, captured) == "0000:04:00.0 stays on vfio-pci, as before"
    assert snapshot(kernel.root) == before
    assert kernel.log() == []


XE = TakeDevice(address=GPU, driver="xe_vfio_pci", module="xe_vfio_pci")


def xe_loaded(kernel: FakeKernel) -> None:
    """As by an earlier step: nobody knew the driver's own name before."""
    kernel.variants = {"xe_vfio_pci": "xe-vfio-pci"}
    kernel.run(["modprobe", "--", "xe_vfio_pci"])


def test_a_variant_drivers_name_is_its_modules_to_tell(kernel: FakeKernel) -> None:
    xe_loaded(kernel)
    before, host = snapshot(kernel.root), kernel.host()
    captured = take(host, XE)
    assert kernel.driver_of(GPU) == "xe-vfio-pci"
    assert captured["vfio"] == "xe-vfio-pci"
    assert HANDLER.undo(host, XE, captured) == "0000:01:00.0 is back on bochs"
    assert snapshot(kernel.root) == before


def test_on_its_variant_driver_already_is_kept_and_left(kernel: FakeKernel) -> None:
    xe_loaded(kernel)
    take(kernel.host(), XE)
    before, host = snapshot(kernel.root), kernel.host()
    captured = take(host, XE)
    assert HANDLER.undo(host, XE, captured) == "0000:01:00.0 stays on xe-vfio-pci, as before"
    assert snapshot(kernel.root) == before


def test_a_variant_driver_that_is_not_there(kernel: FakeKernel) -> None:
    with pytest.raises(HostError, match="modprobe xe_vfio_pci"):
        take(kernel.host(), XE)


def test_return_to_names_another_driver(kernel: FakeKernel) -> None:
    kernel.add_device("0000:04:00.0", driver="vfio-pci", group=4, matches="bochs")
    step = TakeDevice(address=PciAddress("0000:04:00.0"), return_to="bochs")
    host = kernel.host()
    captured = take(host, step)
    assert HANDLER.undo(host, step, captured) == "0000:04:00.0 is back on bochs"
    assert kernel.driver_of("0000:04:00.0") == "bochs"


def test_return_to_vfio_leaves_it(kernel: FakeKernel) -> None:
    step = TakeDevice(address=GPU, return_to="vfio-pci")
    captured = take(kernel.host(), step)
    told = HANDLER.undo(kernel.host(), step, captured)
    assert told == "0000:01:00.0 stays on vfio-pci, as the profile says"
    assert kernel.driver_of(GPU) == "vfio-pci"


def test_return_to_vfio_of_a_failed_take_goes_home(kernel: FakeKernel) -> None:
    step, host = TakeDevice(address=GPU, return_to="vfio-pci"), kernel.host()
    before = snapshot(kernel.root)
    kernel.faults = [Fault("*/vfio-pci/bind", errno.EBUSY)]
    captured = HANDLER.capture(host, step)
    with pytest.raises(HostError):
        HANDLER.apply(host, step, captured)
    HANDLER.undo(host, step, captured)
    assert snapshot(kernel.root) == before


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EBUSY, "virtual functions"),
        (errno.ENODEV, "does not accept"),
        (errno.EINVAL, "bridges"),
    ],
)
def test_a_refused_bind_says_why_and_is_undone(
    kernel: FakeKernel, number: int, words: str
) -> None:
    before, host = snapshot(kernel.root), kernel.host()
    kernel.faults = [Fault("*/vfio-pci/bind", number)]
    captured = HANDLER.capture(host, TAKE)
    with pytest.raises(HostError) as caught:
        HANDLER.apply(host, TAKE, captured)
    problem = caught.value.problems[0]
    assert problem.where == GPU
    assert words in problem.hint
    assert "without a driver" in problem.found
    HANDLER.undo(host, TAKE, captured)
    assert snapshot(kernel.root) == before


def test_kernel_refusals(kernel: FakeKernel) -> None:
    """Bridges, devices without a group, a PF with VFs: the fake kernel's own EINVAL and EBUSY."""
    kernel.add_device("0000:05:00.0", group=5, header=1)
    kernel.add_device("0000:06:00.0", group=None)
    kernel.add_device("0000:07:00.0", group=7, vfs=2)
    before, host = snapshot(kernel.root), kernel.host()
    for name in ("0000:05:00.0", "0000:06:00.0", "0000:07:00.0"):
        step = TakeDevice(address=PciAddress(name))
        captured = HANDLER.capture(host, step)
        with pytest.raises(HostError, match=r"was not bound|2 virtual functions"):
            HANDLER.apply(host, step, captured)
        HANDLER.undo(host, step, captured)
    assert snapshot(kernel.root) == before


def test_another_device_at_the_address_is_not_touched(kernel: FakeKernel) -> None:
    step = TakeDevice(address=AUDIO, id=PciId("10de:0e0a"))
    captured = HANDLER.capture(kernel.host(), step)
    with pytest.raises(HostError) as caught:
        HANDLER.apply(kernel.host(), step, captured)
    assert "8086:2668" in str(caught.value)
    assert "10de:0e0a" in str(caught.value)
    assert kernel.log() == []


def test_another_device_in_its_place_is_not_given_back(kernel: FakeKernel) -> None:
    captured = take(kernel.host())
    kernel.vanish(GPU)
    with pytest.raises(HostError, match="gone from the PCI bus"):
        HANDLER.undo(kernel.host(), TAKE, captured)
    kernel.remove_model(GPU)
    kernel.add_device(GPU, ids="10de:1200", driver="vfio-pci")
    with pytest.raises(HostError, match="another device"):
        HANDLER.undo(kernel.host(), TAKE, captured)
    assert kernel.driver_of(GPU) == "vfio-pci"


def test_a_missing_driver_is_found_before_anything_is_unbound(tmp_path: Path) -> None:
    kernel = FakeKernel(tmp_path)
    kernel.add_device(GPU, driver="bochs")
    captured = HANDLER.capture(kernel.host(), TAKE)
    with pytest.raises(HostError, match="modprobe vfio-pci"):
        HANDLER.apply(kernel.host(), TAKE, captured)
    assert kernel.log() == []


def test_a_group_in_use_is_not_unbound(kernel: FakeKernel) -> None:
    """Unbinding under a guest would unplug its card, and hang."""
    captured = take(kernel.host())
    written = len(kernel.log())
    kernel.open_group(1)
    with pytest.raises(HostError, match="still in use"):
        HANDLER.undo(kernel.host(), TAKE, captured)
    assert len(kernel.log()) == written
    kernel.close_group(1)
    HANDLER.undo(kernel.host(), TAKE, captured)
    assert kernel.driver_of(GPU) == "bochs"


def test_who_has_a_device_open_is_named(kernel: FakeKernel) -> None:
    """Also who got it from somebody else: that file has no name of its own."""
    host = kernel.host()
    captured = take(host)
    kernel.open_group(1)
    opened = {60: "/dev/vfio/1", 70: "/dev/vfio/2", 80: "anon_inode:[vfio-device]", 90: "/dev/kvm"}
    for pid, target in opened.items():
        files = host.path(f"proc/{pid}/fd")
        files.mkdir(parents=True)
        (files / "7").symlink_to(target)
        (files.parent / "comm").write_text(f"holder{pid}\n")
    with pytest.raises(HostError, match="still in use") as caught:
        HANDLER.undo(host, TAKE, captured)
    problem = caught.value.problems[0]
    assert problem.found == (
        "pid 60 (holder60) by /dev/vfio/1; pid 80 (holder80) by [vfio-device]"
    )
    assert "end what has it open" in problem.hint


def test_a_dead_device_is_left_where_it_is(kernel: FakeKernel) -> None:
    captured = take(kernel.host())
    kernel.kill(GPU)
    with pytest.raises(HostError, match="does not answer"):
        HANDLER.undo(kernel.host(), TAKE, captured)
    assert kernel.driver_of(GPU) == "vfio-pci"


def test_a_host_driver_that_refuses_is_probed_and_then_told(kernel: FakeKernel) -> None:
    host = kernel.host()
    captured = take(host)
    kernel.faults = [Fault("*/bochs/bind", errno.ENODEV)]
    assert HANDLER.undo(host, TAKE, captured) == "0000:01:00.0 is back on bochs"
    assert kernel.log()[-1].startswith("sys/bus/pci/drivers_probe")
    captured = take(host)
    kernel.faults += [Fault("*/drivers_probe", errno.EINVAL)]
    with pytest.raises(HostError) as caught:
        HANDLER.undo(host, TAKE, captured)
    assert "without a driver" in caught.value.problems[0].found
    kernel.faults = []
    assert HANDLER.undo(host, TAKE, captured) == "0000:01:00.0 is back on bochs"


def test_a_driver_unloaded_meanwhile(kernel: FakeKernel) -> None:
    captured = take(kernel.host())
    for path in (kernel.root / "sys/bus/pci/drivers/bochs").iterdir():
        path.unlink()
    (kernel.root / "sys/bus/pci/drivers/bochs").rmdir()
    with pytest.raises(HostError, match="modprobe bochs"):
        HANDLER.undo(kernel.host(), TAKE, captured)
    assert kernel.read(GPU, "driver_override") == "(null)"


def test_somebody_elses_choice_is_left(kernel: FakeKernel) -> None:
    captured = take(kernel.host())
    kernel.add_driver("pci-stub")
    kernel.detach(GPU, "vfio-pci")
    kernel.attach(GPU, "pci-stub")
    told = HANDLER.undo(kernel.host(), TAKE, captured)
    assert told == "0000:01:00.0 is on pci-stub: somebody else bound it there"
    assert kernel.read(GPU, "driver_override") == "(null)"


def test_a_hanging_unbind_passes_its_deadline(kernel: FakeKernel) -> None:
    kernel.faults = [Fault("*/bochs/unbind", HANG)]
    waited: list[str] = []
    host = kernel.host(deadline=4.0, on_wait=lambda what, _: waited.append(what))
    captured = HANDLER.capture(host, TAKE)
    with pytest.raises(StuckError, match=f"unbinding {GPU} from bochs"):
        HANDLER.apply(host, TAKE, captured)


def test_clearing_writes_a_newline(kernel: FakeKernel) -> None:
    host = kernel.host()
    path = kernel.root / "sys/bus/pci/devices" / GPU / "driver_override"
    captured = take(host)
    kernel.write(path, b"")
    assert kernel.read(GPU, "driver_override") == "vfio-pci"  # the trap itself
    HANDLER.undo(host, TAKE, captured)
    assert kernel.read(GPU, "driver_override") == "(null)"


def test_runtime_power_control_is_as_it_was(kernel: FakeKernel) -> None:
    """vfio-pci leaves "on" behind, whatever an administrator had set."""
    kernel.put(f"sys/devices/pci0000:00/{GPU}/power/control", "auto\n")
    before, host = snapshot(kernel.root), kernel.host()
    captured = take(host)
    HANDLER.undo(host, TAKE, captured)
    assert snapshot(kernel.root) == before

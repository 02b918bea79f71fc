"""Slices of devices for real: the kernel's sample mediated devices and an NVMe's virtual functions.

Each test compares the whole host before and after. A mediated device of somebody else's is there
all the time, and has to stay.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qlaunch.host.handler import Host
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.steps import CreateMdev, EnableVfs, ResetDevices, Step, TakeDevice
from qlaunch.run.engine import Engine
from qlaunch.values import PciAddress
from tests.fake.guest import make_guest
from tests.fake.scripted import MemoryLog

from .host import PCI, Device
from .machine import LINUX, ROOT, Run, host_state, qemu_of, qlaunch, uid_of, until
from .screen_text import read_font, read_ppm, screen_lines

pytestmark = [pytest.mark.lab, pytest.mark.topology("slices")]

SAMPLES = ROOT / "build/samples"
PARENTS = Path("/sys/class/mdev_bus")
MDEVS = Path("/sys/bus/mdev/devices")
FOREIGN = "11111111-2222-3333-4444-555555555555"
AT_STAGE = str(ROOT / "tests/fake/at_stage.py")

PROFILE = """\
name = "{name}"

[machine]
memory = "64M"
fw_cfg = {{ "opt/org.qlaunch/name" = "{name}", "opt/org.qlaunch/seconds" = "{seconds}" }}

[cpu]
model = "qemu64"

[[disk]]
file = "{disk}"
read_only = true
boot = 0

[[serial]]
type = "stdio"

[stop]
timeout = "3s"
"""
MDPY = '[[vgpu]]\ntype = "mdpy-vga"\n'
FUNCTION = '[[vgpu]]\nkind = "vf"\nparent = "1b36:0010"\n'


def nvme() -> Device:
    """The physical function."""
    path = next(
        p for p in sorted((PCI / "devices").iterdir())
        if (p / "class").read_text().strip() == "0x010802" and (p / "sriov_totalvfs").exists()
    )
    return Device(path.name)


@pytest.fixture(scope="session", autouse=True)
def samples() -> None:
    """The modules, as one who has built them loads them."""
    for module in ("vfio", "vfio_iommu_type1", "mdev"):
        subprocess.run(["modprobe", module], check=True)
    for name in ("mdpy", "mbochs", "mtty"):
        subprocess.run(["insmod", str(SAMPLES / f"{name}.ko")], check=True)
    create("mdpy", "mdpy-hd", FOREIGN)


def create(parent: str, kind: str, uuid: str) -> None:
    (PARENTS / parent / "mdev_supported_types" / kind / "create").write_text(uuid)


def left(parent: str, kind: str) -> int:
    path = PARENTS / parent / "mdev_supported_types" / kind / "available_instances"
    return int(path.read_text())


def state() -> dict[str, str]:
    """The host's, and what there is of slices."""
    found = host_state()
    found["mdevs"] = " ".join(sorted(p.name for p in MDEVS.iterdir()))
    found["autoprobe"] = nvme().read("sriov_drivers_autoprobe")
    found["left"] = f"{left('mdpy', 'mdpy-vga')} {left('mbochs', 'mbochs-large')}"
    return found


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = state()
    assert FOREIGN in before["mdevs"]
    yield
    after = state()
    assert {k: (before.get(k), v) for k, v in after.items() if before.get(k) != v} == {}
    assert before.keys() == after.keys()


class Machine:
    """One profile with the boot sector's guest."""

    def __init__(
        self, directory: Path, disk: Path, name: str, more: str, seconds: int = 600
    ) -> None:
        self.name = name
        self.path = directory / f"{name}.toml"
        self.path.write_text(PROFILE.format(name=name, disk=disk, seconds=seconds) + more)

    def start(self, *program: str) -> Run:
        argv = program or ("-m", "qlaunch")
        run = Run([sys.executable, *argv, "run", str(self.path)], self.name)
        run.errors = run.errors.rename(run.errors.with_name(f"{self.name}-stderr.txt"))
        return run


def wait_for(run: Run, text: str) -> None:
    until(lambda: text in run.said or run.process.poll() is not None, lambda: run.said)
    assert text in run.said, run.said


def has_qemu(name: str) -> bool:
    try:
        return qemu_of(name) > 0
    except ProcessLookupError:
        return False


def held_at(machine: Machine, stage: int) -> Run:
    """A launcher that holds still as it enters a stage."""
    run = machine.start(AT_STAGE, str(int(signal.SIGSTOP)), str(stage))

    def is_still() -> bool:
        assert run.process.poll() is None, run.said
        stat = Path(f"/proc/{run.process.pid}/stat").read_text()
        return stat.rpartition(") ")[2][0] == "T"

    until(is_still, lambda: run.said)
    return run


def end(run: Run) -> str:
    """Power it off; all it said."""
    stopped = qlaunch("stop", run.name)
    assert stopped.returncode == 0, stopped.stderr
    run.wait()
    return run.said


def ask(name: str, command: str, **arguments: Any) -> Any:
    """One command of the machine's own monitor."""
    path = f"/run/qlaunch/.by-uid/{uid_of(name)}/{name}/qmp.sock"
    with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rw") as stream:
        sock.settimeout(60)
        sock.connect(path)
        stream.readline()
        for execute, more in (("qmp_capabilities", {}), (command, arguments)):
            stream.write(json.dumps({"execute": execute, "arguments": more}))
            stream.flush()
            answer = json.loads(stream.readline())
            while "event" in answer:
                answer = json.loads(stream.readline())
            assert "return" in answer, answer
    return answer["return"]


@pytest.fixture
def open_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where QEMU's account can read, and write in `out`."""
    made = subprocess.run(
        ["mktemp", "-d", "/tmp/lab-XXXXXX"], capture_output=True, text=True, check=True
    )
    directory = Path(made.stdout.strip())
    directory.chmod(0o755)
    (directory / "out").mkdir()
    (directory / "out").chmod(0o777)
    yield directory
    subprocess.run(["rm", "-r", str(directory)], check=True)


def test_what_there_is_to_slice_is_listed() -> None:
    listed = qlaunch("devices", "--vgpu")
    assert listed.returncode == 0, listed.stderr
    assert "mdpy: mediated devices" in listed.stdout
    assert "mbochs-large: 4 left, 64M" in listed.stdout
    assert "mdpy-hd: " in listed.stdout
    assert "1920x1080" in listed.stdout
    assert f"{FOREIGN}  mdpy-hd" in listed.stdout
    assert "0 of 2 virtual functions on" in listed.stdout


def test_made_and_removed_by_hand() -> None:
    uuid = "22222222-2222-3333-4444-555555555555"
    made = qlaunch("vgpu", "create", "mtty", "mtty-1", "--uuid", uuid.upper())
    assert made.returncode == 0, made.stderr
    assert (MDEVS / uuid).exists()
    again = qlaunch("vgpu", "create", "mtty", "mtty-1", "--uuid", uuid)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    removed = qlaunch("vgpu", "remove", uuid)
    assert removed.returncode == 0, removed.stderr
    assert not (MDEVS / uuid).exists()


@pytest.mark.parametrize("time_round", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_a_mediated_device_and_a_function_come_and_go(
    time_round: int, open_directory: Path, boot_disk: Path
) -> None:
    text = MDPY.replace("vga", "xga") + "display = true\n" + FUNCTION
    run = Machine(open_directory, boot_disk, "labslice", text).start()
    try:
        wait_for(run, "qlaunch: done")
        assert "1b36:000f" in run.said, "the guest sees mdpy"
        assert "1b36:0010 class 0108" in run.said, "and the virtual function"
        ours = [p for p in MDEVS.iterdir() if p.name != FOREIGN]
        assert len(ours) == 1
        group = (ours[0] / "iommu_group").resolve().name
        assert Path("/dev/vfio", group).stat().st_uid == uid_of("labslice")
        function = Device((nvme().path / "virtfn0").resolve().name)
        assert function.driver == "vfio-pci"
        assert function.read("reset_method").startswith("flr")
        assert nvme().read("sriov_numvfs") == "2"
        assert "labslice" in qlaunch("devices", "--vgpu").stdout
        picture = open_directory / "out/vgpu.ppm"
        ask("labslice", "screendump", filename=str(picture), device="vgpu0")
        width, height, pixels = read_ppm(picture.read_bytes())
        assert (width, height) == (1024, 768)
        shades = [pixels[row * width * 3] for row in range(0, height, 96)]
        assert shades == sorted(shades), "the gradient that the kernel's driver begins with"
        assert shades[0] < 16
        assert shades[-1] > 192
        said = end(run)
        assert "is removed" in said
        assert "are off" in said
    finally:
        run.end()


def test_two_machines_on_one_parent_and_the_last_instance(
    open_directory: Path, boot_disk: Path
) -> None:
    large = '[[vgpu]]\ntype = "mbochs-large"\n'
    runs: list[Run] = []
    try:
        for name in ("labone", "labtwo"):
            runs.append(Machine(open_directory, boot_disk, name, large + FUNCTION).start())
            wait_for(runs[-1], "qlaunch: done")
            assert "1234:1111" in runs[-1].said
        assert left("mbochs", "mbochs-large") == 2
        assert left("mbochs", "mbochs-small") == 32, "types share what there is"
        functions = [Device((nvme().path / f"virtfn{n}").resolve().name) for n in (0, 1)]
        assert [f.driver for f in functions] == ["vfio-pci"] * 2
        third = Machine(open_directory, boot_disk, "labthree", FUNCTION)
        refused = qlaunch("run", str(third.path))
        assert refused.returncode == 1
        assert "no virtual function is free" in refused.stderr
        fourth = Machine(open_directory, boot_disk, "labfour", large)
        runs.append(held_at(fourth, 5))
        others = [f"{n:08x}-0000-0000-0000-000000000000" for n in (1, 2)]
        for uuid in others:  # it has been planned, and not made
            create("mbochs", "mbochs-large", uuid)
        runs[-1].process.send_signal(signal.SIGCONT)
        assert runs[-1].wait() == 1, runs[-1].said
        assert "did not make a mbochs-large" in runs[-1].said
        refused = qlaunch("run", str(fourth.path))
        assert refused.returncode == 1
        assert "no instance of this type is left" in refused.stderr
        for uuid in others:
            (MDEVS / uuid / "remove").write_text("1")
        said = end(runs[0])
        assert "stay on" in said, "the other machine has one"
        assert nvme().read("sriov_numvfs") == "2"
        assert "are off" in end(runs[1])
    finally:
        for run in runs:
            run.end()


def test_one_that_was_made_by_hand_is_used_and_stays(
    open_directory: Path, boot_disk: Path
) -> None:
    uuid = "44444444-2222-3333-4444-555555555555"
    create("mtty", "mtty-2", uuid)
    text = f'[[vgpu]]\ntype = "mtty-2"\nuuid = "{uuid}"\n'
    run = Machine(open_directory, boot_disk, "labused", text, seconds=1).start()
    try:
        assert run.wait() == 0, run.said
        assert "4348:3253" in run.said
        assert (MDEVS / uuid).exists()
    finally:
        run.end()
        (MDEVS / uuid / "remove").write_text("1")


@pytest.mark.parametrize(
    "stage",
    [5, 7, 8, 9, 10, *(pytest.param(n, marks=pytest.mark.nightly) for n in (4, 6))],
)
def test_launcher_killed_at_a_stage_then_recover(
    stage: int, open_directory: Path, boot_disk: Path
) -> None:
    machine = Machine(open_directory, boot_disk, "labdead", MDPY + FUNCTION, seconds=1)
    run = machine.start(AT_STAGE, str(int(signal.SIGKILL)), str(stage))
    assert run.wait() == -signal.SIGKILL, run.said
    done = qlaunch("recover", "--all")
    assert done.returncode == 0, done.stderr
    if stage > 5:
        assert "is removed" in done.stderr


def test_qemu_killed(open_directory: Path, boot_disk: Path) -> None:
    run = Machine(open_directory, boot_disk, "labcrash", MDPY + FUNCTION).start()
    try:
        wait_for(run, "the guest runs")
        os.kill(qemu_of("labcrash"), signal.SIGKILL)
        assert run.wait() == 1
        assert "is removed" in run.said
    finally:
        run.end()


@pytest.mark.nightly
@pytest.mark.parametrize("who", ["qemu", "both"])
def test_killed_before_the_guest_runs(who: str, open_directory: Path, boot_disk: Path) -> None:
    """While QEMU builds its machine, the function and the mediated device open."""
    run = held_at(Machine(open_directory, boot_disk, "labearly", MDPY + FUNCTION), 8)
    try:
        until(lambda: has_qemu("labearly"), lambda: run.said)
        qemu = qemu_of("labearly")
        os.kill(qemu, signal.SIGKILL)
        run.process.send_signal(signal.SIGKILL if who == "both" else signal.SIGCONT)
        if who == "qemu":
            assert run.wait() == 1, run.said
            assert "is removed" in run.said
        else:
            assert run.wait() == -signal.SIGKILL
            until(lambda: not Path(f"/proc/{qemu}").exists(), lambda: f"{qemu} stays")
            done = qlaunch("recover", "--all")
            assert done.returncode == 0, done.stderr
            assert "is removed" in done.stderr
    finally:
        run.end()


def test_both_killed_then_the_next_start_puts_back_first(
    open_directory: Path, boot_disk: Path
) -> None:
    machine = Machine(open_directory, boot_disk, "labboth", MDPY + FUNCTION)
    run = machine.start()
    try:
        wait_for(run, "the guest runs")
        run.process.kill()
        run.process.wait()
        os.kill(qemu_of("labboth"), signal.SIGKILL)
        until(lambda: "left over" in qlaunch("ps").stdout, lambda: qlaunch("ps").stdout)
        assert len(list(MDEVS.iterdir())) == 2, "left behind"
        machine.path.write_text(machine.path.read_text().replace('"600"', '"1"'))
        again = qlaunch("run", str(machine.path))
        assert again.returncode == 0, again.stderr
        assert "labboth left something behind" in again.stderr
    finally:
        run.end()


@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.nightly)])
def test_rounds_leave_nothing(rounds: int) -> None:
    physical = PciAddress(nvme().address)
    function = PciAddress(f"{physical[:-1]}1")
    steps: list[Step] = [
        EnableVfs(address=physical, count=2, uses=((0, function),)),
        TakeDevice(address=function),
        ResetDevices(addresses=(function,)),
        CreateMdev(uuid="55555555-2222-3333-4444-555555555555", parent="mdpy", type="mdpy-vga"),
    ]
    before = state()
    for number in range(rounds):
        engine = Engine(Host(), MemoryLog(), HANDLERS)
        engine.apply(steps)
        assert engine.undo_all().left == (), number
    assert state() == before


@pytest.mark.nightly
def test_a_linux_guest_writes_on_the_vgpus_screen(open_directory: Path) -> None:
    """Its console is on mdpy's frame buffer, and is read off the picture with the kernel's font."""
    script = """
echo 0 > /sys/class/vtconsole/vtcon0/bind 2>/dev/null
printf '\\033[2J\\033[Hwritten by the guest on a vGPU\\n' > /dev/tty1
echo "guest: fb: $(cat /sys/class/graphics/fb0/name)"
sleep 1000
"""
    guest = make_guest(open_directory, script, (), (SAMPLES / "mdpy-fb.ko",))
    profile = open_directory / "labtext.toml"
    profile.write_text(LINUX.format(name="labtext", guest=guest) + """
[[serial]]
type = "stdio"

[stop]
timeout = "1s"

[[vgpu]]
kind = "mdev"
parent = "mdpy"
resolution = ">=640x480"
display = true
""")
    run = Run([sys.executable, "-m", "qlaunch", "run", str(profile)], "labtext")
    try:
        until(lambda: "guest: fb:" in run.said or run.process.poll() is not None,
              lambda: run.said, 300)
        assert "guest: fb: mdpy" in run.said, run.said
        picture = open_directory / "out/text.ppm"
        font = read_font(SAMPLES / "font_8x16.c")
        lines: list[str] = []

        def written() -> bool:
            ask("labtext", "screendump", filename=str(picture), device="vgpu0")
            lines[:] = screen_lines(picture.read_bytes(), font)
            return "written by the guest on a vGPU" in lines

        until(written, lambda: "\n".join(lines), 60)
        end(run)
    finally:
        run.end()

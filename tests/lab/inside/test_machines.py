"""Whole machines, end to end, told by a Linux guest that has them: a network behind the host, a
TPM and a shared folder by their real daemons, a CD that is changed while it runs, a USB controller
and a USB device of the host's; and huge pages on one node.

Each test compares the whole host before and after, as test_run.py does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.guest import Guest, make_guest

from .host import PCI, USB
from .machine import LINUX, Run, qemu_of, qlaunch, threads, uid_of, until
from .monitor import Monitor
from .state import host_state

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("nothing_left")]

OUTSIDE = "10.99.0.2"  # what the guest reaches through the host
SAID = "spoken from outside"

PROFILE = LINUX + """
[[serial]]
type = "file"
file = "{serial}"

[stop]
timeout = "3s"
"""

NAT_SCRIPT = """
cat > /udhcpc.sh <<'END'
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "nameserver $dns" > /etc/resolv.conf
END
chmod +x /udhcpc.sh
mkdir /etc
ip link set eth0 up
udhcpc -i eth0 -n -q -t 20 -s /udhcpc.sh >/dev/null 2>&1
echo "guest: web: $(wget -q -O - http://{outside}/said)"
mount -t virtiofs folder /mnt
echo "guest: folder: $(cat /mnt/from-host)"
echo written > /mnt/from-guest
umount /mnt
echo "guest: cd: $(head -c 5 /dev/sr0)"
while [ "$(head -c 5 /dev/sr0 2>/dev/null)" != other ]; do sleep 1; done
echo "guest: cd: other"
"""

USB_SCRIPT = """
usb() {
    for vendor in /sys/bus/usb/devices/*-*/idVendor; do
        [ -e "$vendor" ] && echo "$(cat "$vendor"):$(cat "${vendor%Vendor}Product")"
    done
}
tablets() { usb | grep -c 0627:0001; }
for try in 1 2 3 4 5 6 7 8 9 10; do sleep 1; [ "$(tablets)" = 2 ] && break; done
usb | sed 's/^/guest: usb: /'
echo "guest: controllers: $(cat /sys/bus/pci/devices/*/class | grep -c 0x0c0330)"
echo guest: unplug
while [ "$(tablets)" = 2 ]; do sleep 1; done
echo guest: plug
while [ "$(tablets)" != 2 ]; do sleep 1; done
echo guest: replugged
"""


def helpers() -> str:
    """Programs that serve a machine."""
    return host_state()["processes"]


def shell(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where QEMU's account can read: pytest's own directories are root's alone."""
    made = Path(shell("mktemp", "-d", "/tmp/lab-XXXXXX").strip())
    made.chmod(0o755)
    yield made
    shell("rm", "-r", str(made))


@pytest.fixture
def outside() -> Iterator[None]:
    """A network beyond the host, with a web server in it."""
    commands = (
        "ip netns add beyond", "ip link add lab-out type veth peer name eth0 netns beyond",
        "ip addr add 10.99.0.1/24 dev lab-out", "ip link set lab-out up",
        f"ip -n beyond addr add {OUTSIDE}/24 dev eth0", "ip -n beyond link set eth0 up",
    )
    for command in commands:
        shell(*command.split())
    page = Path("/run/beyond")
    page.mkdir()
    (page / "said").write_text(SAID)
    web = subprocess.Popen(
        ["ip", "netns", "exec", "beyond", "busybox", "httpd", "-f", "-p", "80", "-h", str(page)]
    )
    yield
    web.kill()
    web.wait()
    shell("ip", "netns", "del", "beyond")
    shell("rm", "-r", str(page))


class Linux:
    """A machine with the Linux guest, its profile and what it says."""

    def __init__(self, directory: Path, name: str, guest: Guest, more: str) -> None:
        self.path = directory / f"{name}.toml"
        self.serial = directory / f"{name}.serial"
        text = PROFILE.format(name=name, guest=guest, serial=self.serial)
        self.path.write_text(text + more)
        self.run = Run([sys.executable, "-m", "qlaunch", "run", str(self.path)], name)

    @property
    def said(self) -> str:
        return self.serial.read_text(errors="replace") if self.serial.exists() else ""

    def wait_for(self, text: str, timeout: float = 600) -> None:
        def there() -> bool:
            return text in self.said or self.run.process.poll() is not None

        until(there, lambda: f"{text}: {self.said[-2000:]}\n{self.run.said}", timeout)
        assert text in self.said, f"{self.said[-2000:]}\n{self.run.said}"


def test_nat_folder_and_a_changed_cd(directory: Path, outside: None) -> None:
    """One machine, because each start of an emulated Linux in an emulated host takes a minute."""
    folder = directory / "folder"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "from-host").write_text("read")
    for name in ("first", "other"):
        (directory / f"{name}.iso").write_bytes(name.encode().ljust(1 << 16, b"\0"))
    guest = make_guest(
        directory, NAT_SCRIPT.format(outside=OUTSIDE),
        ("virtio_pci", "virtio_net", "virtiofs", "virtio_scsi", "sr_mod"),
    )
    machine = Linux(directory, "labnat", guest, f"""
[[net]]
nat = {{}}

[[share]]
path = "{folder}"
tag = "folder"

[[cdrom]]
file = "{directory}/first.iso"
bus = "scsi"
""")
    try:
        machine.wait_for("guest: cd: first")
        assert f"guest: web: {SAID}" in machine.said
        assert "guest: folder: read" in machine.said
        assert (folder / "from-guest").read_text() == "written\n"
        assert (folder / "from-guest").stat().st_uid == uid_of("labnat")  # QEMU's account, not root
        assert "virtiofsd" in helpers()
        changed = qlaunch("media", "labnat", "change", str(directory / "other.iso"))
        assert changed.returncode == 0, changed.stderr
        machine.wait_for("guest: done")
        assert machine.run.wait() == 0, machine.run.said
    finally:
        machine.run.end()


@pytest.mark.parametrize(
    "killed", [True, pytest.param(False, marks=pytest.mark.nightly)], ids=["killed", "powered off"]
)
def test_a_tpm_and_its_daemon(
    killed: bool, directory: Path, boot_disk: Path, outside: None
) -> None:
    """SeaBIOS starts the TPM before it boots; its state stays, its daemon does not."""
    seconds = 600 if killed else 1
    profile = directory / "labtpm.toml"
    profile.write_text(f"""\
name = "labtpm"

[machine]
memory = "128M"
fw_cfg = {{ "opt/org.qlaunch/name" = "labtpm", "opt/org.qlaunch/seconds" = "{seconds}" }}

[tpm]

[[net]]
nat = {{}}

[[disk]]
file = "{boot_disk}"
read_only = true
boot = 0

[[serial]]
file = "{directory}/labtpm.serial"
""")
    run = Run([sys.executable, "-m", "qlaunch", "run", str(profile)], "labtpm")
    serial = directory / "labtpm.serial"
    try:
        until(
            lambda: run.process.poll() is not None
            or (serial.exists() and "qlaunch: done" in serial.read_text(errors="replace")),
            lambda: run.said, 180,
        )
        if killed:
            assert {"swtpm", "dnsmasq"} <= set(helpers().split())
            run.process.kill()
            run.wait()
            os.kill(qemu_of("labtpm"), 9)
            until(lambda: "left over" in qlaunch("ps").stdout, lambda: qlaunch("ps").stdout, 60)
            done = qlaunch("recover", "--all")
            assert done.returncode == 0, done.stderr
        else:
            assert run.wait() == 0, run.said
    finally:
        run.end()
    assert list(Path("/var/lib/qlaunch/labtpm").glob("tpm*/*")), "the TPM's state is kept"


def test_a_usb_controller_and_a_usb_device(directory: Path, monitor: Monitor) -> None:
    """The controller goes with what is plugged into it; the device of the other controller is
    unplugged, and attached again when it is plugged in."""
    guest = make_guest(directory, USB_SCRIPT, ("xhci_pci",))
    machine = Linux(directory, "labusb", guest, f"""
[[pci]]
device = "00:13.0"
id = "1b36:000d"

[[usb]]
port = "{usb_port("0627:0001", not_below=USB.address)}"
""")
    try:
        machine.wait_for("guest: unplug")
        assert USB.driver == "vfio-pci"
        assert "guest: controllers: 2" in machine.said
        assert machine.said.count("guest: usb: 0627:0001") == 2  # the tablet behind each
        monitor.execute("device_del", id="labtablet1")
        machine.wait_for("guest: plug")
        again = {"bus": "usb1.0", "port": "1"}  # else QEMU takes the next, which is another's
        monitor.execute("device_add", driver="usb-tablet", id="labtablet1", **again)
        machine.wait_for("guest: replugged")
        assert machine.run.wait() == 0, machine.run.said
        assert USB.driver == "xhci_hcd"
    finally:
        machine.run.end()


def usb_port(ident: str, *, not_below: str) -> str:
    """bus-port of the device with these ids that is not on a certain controller."""
    for path in Path("/sys/bus/usb/devices").glob("*-*"):
        vendor, product = path / "idVendor", path / "idProduct"
        if not vendor.exists() or not_below in str(path.resolve()):
            continue
        if f"{vendor.read_text().strip()}:{product.read_text().strip()}" == ident:
            return path.name
    raise LookupError(ident)


@pytest.mark.topology("numa")
def test_huge_pages_of_one_node_and_its_card(directory: Path, boot_disk: Path) -> None:
    """The profile names neither CPU nor node: both follow from where the card is."""
    node = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB"
    before = int(Path(node, "nr_hugepages").read_text())
    profile = directory / "labhuge.toml"
    profile.write_text(f"""\
name = "labhuge"

[machine]
memory = "256M"
hugepages = "2M"
fw_cfg = {{ "opt/org.qlaunch/name" = "labhuge", "opt/org.qlaunch/seconds" = "600" }}

[cpu]
cores = 2
pin = "auto"

[[disk]]
file = "{boot_disk}"
read_only = true
boot = 0

[[pci]]
device = "8086:10d3"

[[serial]]
type = "file"
file = "{directory}/labhuge.serial"
""")
    run = Run([sys.executable, "-m", "qlaunch", "run", str(profile)], "labhuge")
    serial = directory / "labhuge.serial"
    try:
        until(
            lambda: run.process.poll() is not None
            or (serial.exists() and "qlaunch: done" in serial.read_text(errors="replace")),
            lambda: run.said, 180,
        )
        assert run.process.poll() is None, run.said
        assert "memory=256M" in serial.read_text()
        assert "8086:10d3" in serial.read_text()
        pid = qemu_of("labhuge")
        seen = threads(pid)
        # Node 1 is CPUs 4 to 7; two vCPUs on the two threads of a core, all else beside them.
        assert (seen.pop("CPU 0/TCG"), seen.pop("CPU 1/TCG")) == ({4}, {5})
        assert set().union(*seen.values()) == {6, 7}
        used = [line for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines()
                if "kernelpagesize_kB=2048" in line and "N" in line]
        assert used
        assert all("N0=" not in line for line in used), used
        assert any("bind:1" in line for line in used), used
        assert int(Path(node, "nr_hugepages").read_text()) >= 128
        ended = qlaunch("stop", "labhuge", "--now")
        assert ended.returncode == 0, ended.stderr
        assert run.wait() == 0, run.said
    finally:
        run.end()
    assert int(Path(node, "nr_hugepages").read_text()) == before
    cards = [p for p in PCI.glob("devices/*") if (p / "device").read_text().strip() == "0x10d3"]
    assert [(p / "driver").resolve().name for p in cards] == ["e1000e"]

"""Networks of real machines: asked of QEMU, of dnsmasq, nft and the kernel, and gone afterwards.

Each test has a network namespace for its host. The guest of the NAT test is iPXE, which asks for
an address by DHCP.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qlaunch.run.info import find_supervisor
from qlaunch.vm.monitor import Monitor
from tests.fake.loop import run
from tests.fake.users import UID, Stage
from tests.netns.space import fresh, out, sh
from tests.qemu.test_verbs import Make, Vm, make, qlaunch, until

__all__ = ["make"]
pytestmark = [
    pytest.mark.qemu, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

needs_nat = pytest.mark.skipif(
    not (shutil.which("nft") and shutil.which("dnsmasq")), reason="needs nft and dnsmasq"
)


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    """A host with one link and a way out."""
    with fresh():
        sh("ip link set lo up", "ip link add up0 type veth peer name far0",
           "ip addr add 203.0.113.1/24 dev up0", "ip link set up0 up", "ip link set far0 up",
           "ip route add default via 203.0.113.2")  # fmt: skip
        yield


def seen(vm: Vm) -> dict[str, object]:
    """What a machine's network may leave behind."""
    runtime = str(Path(vm.runtime)).encode()
    return {
        "links": sorted(name for _, name in socket.if_nameindex()),
        "tables": out("nft list ruleset"),
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "notes": sorted(Path(vm.runtime).parent.glob(f".forwarding/{vm.name}*")),
        "processes": [
            p.parent.name for p in Path("/proc").glob("[0-9]*/cmdline") if _names(p, runtime)
        ],
    }


def _names(path: Path, runtime: bytes) -> bool:
    try:
        return runtime + b"/" in path.read_bytes()
    except OSError:
        return False


def start(vm: Vm, *settings: str, binary: str = "") -> None:
    """Run it, with a /sys that shows the links of this namespace."""
    more = ["--set", f"qemu.binary={binary}"] if binary else []
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", 'mount -t sysfs sysfs /sys && exec "$@"', "sh",
         sys.executable, "-m", "qlaunch", "run", str(vm.path), "--detach", *more, *settings],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def asked(vm: Vm, *commands: tuple[str, dict[str, Any]]) -> list[Any]:
    """What QEMU answers."""

    (path,) = Path(vm.runtime).parent.glob(f".by-uid/*/{vm.name}/qmp.sock")

    async def by_user() -> list[Any]:
        async with await Monitor.connect(str(path)) as monitor:
            return [await monitor.execute(name, arguments) for name, arguments in commands]

    return run(by_user())


def hmp(line: str) -> tuple[str, dict[str, Any]]:
    return "human-monitor-command", {"command-line": line}


def stop(vm: Vm) -> None:
    done = qlaunch("stop", vm.name, "--now")
    assert done.returncode == 0, done.stderr
    assert "all given back" in qlaunch("logs", vm.name).stdout


@needs_nat
def test_a_guest_behind_nat_gets_an_address(make: Make, both_qemus: str) -> None:
    vm = make(disk='[[net]]\nnat = { forward = ["tcp:2222:22"] }\nboot = 0\n')
    before = seen(vm)
    start(vm, "--set", "disk[0].boot=5", binary=both_qemus)
    leases = Path(vm.runtime, "dnsmasq.leases")
    until(lambda: leases.read_text().count(" 192.168."), "iPXE has asked for an address")
    mac, address = leases.read_text().split()[1:3]
    assert mac.startswith("52:54:00:")
    assert address.endswith(".2")
    assert f"table ip qlaunch_{vm.name.replace('-', '_')}" in out("nft list tables")
    assert "run dnsmasq" in qlaunch("status", vm.name).stdout
    stop(vm)
    assert seen(vm) == before


@needs_nat
@pytest.mark.parametrize("also_qemu", [True, False])
def test_recover_after_a_kill_puts_the_network_back(make: Make, *, also_qemu: bool) -> None:
    vm = make(disk="[[net]]\nnat = {}\n")
    before = seen(vm)
    start(vm)
    launcher = find_supervisor(vm.runtime)
    assert launcher is not None
    os.kill(launcher, signal.SIGKILL)
    until(lambda: find_supervisor(vm.runtime) is None, "the launcher is gone")
    if also_qemu:
        os.kill(vm.qemu(), signal.SIGKILL)
        done = qlaunch("recover", vm.name)
    else:
        assert seen(vm)["processes"], "dnsmasq serves the guest that runs on"
        done = qlaunch("stop", vm.name, "--now")
    assert done.returncode == 0, done.stderr
    assert "has ended" in done.stderr
    assert "IPv4 forwarding is off again" in done.stderr
    assert seen(vm) == before


@needs_nat
def test_two_machines_behind_nat(make: Make) -> None:
    one, two = (make(disk="[[net]]\nnat = {}\n") for _ in range(2))
    before = seen(one)
    start(one)
    start(two)
    tables = out("nft list tables").splitlines()
    assert len(tables) == 2
    networks = {
        line.split()[2] for line in out("ip -br addr").splitlines() if line.startswith("qlnat")
    }
    assert len(networks) == 2
    stop(one)
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
    stop(two)
    assert seen(one) == before


@pytest.mark.skipif(not shutil.which("passt"), reason="needs passt")
def test_passt(make: Make, both_qemus: str) -> None:
    vm = make(disk='[[net]]\npasst = { forward = ["tcp:2223:22"], dns = ["203.0.113.2"] }\n'
                   "mtu = 1400\n")
    start(vm, binary=both_qemus)
    (text,) = asked(vm, hmp("info network"))
    assert "hostnet0: index=0,type=stream" in text
    until(lambda: ":2223" in out("ss -ltn"), "passt listens for the guest")
    mtu, up = asked(vm, ("qom-get", {"path": "net0", "property": "host_mtu"}),
                    ("query-rx-filter", {"name": "net0"}))
    assert mtu == 1400
    assert up[0]["name"] == "net0"
    stop(vm)
    assert ":2223" not in out("ss -ltn")


def test_user_mode(make: Make, both_qemus: str) -> None:
    net = (
        'user = { net = "10.9.0.0/24", dns = "10.9.0.9", hostname = "vm", domainname = "home.arpa",'
        ' dnssearch = ["a.b", "c.d"], tftp = "/usr/share", bootfile = "a,b",'
        ' forward = ["tcp:127.0.0.1:2224:22"] }'
    )
    vm = make(disk=f'[[net]]\n{net}\nmodel = "vmxnet3"\nrom = false\n')
    start(vm, binary=both_qemus)
    text, forwards, rom = asked(
        vm, hmp("info network"), hmp("info usernet"),
        ("qom-get", {"path": "net0", "property": "romfile"}),
    )
    assert "type=user,net=10.9.0.0" in text
    assert "model=vmxnet3" in text
    assert "127.0.0.1  2224       10.9.0.15    22" in forwards
    assert rom == ""
    stop(vm)


@pytest.mark.parametrize("model", ["virtio", "e1000e", "e1000", "rtl8139", "vmxnet3"])
def test_every_card(make: Make, both_qemus: str, model: str) -> None:
    vm = make(disk=f'[[net]]\nuser = {{}}\nmodel = "{model}"\n')
    start(vm, binary=both_qemus)
    (pci,) = asked(vm, ("query-pci", {}))
    (card,) = [d for d in pci[0]["devices"] if d["qdev_id"] == "net0"]
    assert card["class_info"]["class"] == 0x200
    stop(vm)


def test_a_tap_of_many_queues_with_its_mtu(make: Make, both_qemus: str) -> None:
    vm = make(disk='[[net]]\nbridge = "qtbr0"\nmake_bridge = true\ntap = "qttap0"\nqueues = 2\n'
                   "mtu = 9000\nrx_queue_size = 1024\n")
    before = seen(vm)
    start(vm, binary=both_qemus)
    assert "master qtbr0" in out("ip -o link show qttap0")
    assert [" mtu 9000 " in out(f"ip -o link show {name}") for name in ("qttap0", "qtbr0")] == [
        True, True
    ]
    card = [("qom-get", {"path": "net0", "property": name})
            for name in ("mq", "host_mtu", "rx_queue_size", "vectors")]  # fmt: skip
    text, *values = asked(vm, hmp("info network"), *card)
    assert values == [True, 9000, 1024, 6]
    assert text.count("type=tap,fd=") == 2
    stop(vm)
    assert seen(vm) == before


@pytest.mark.parametrize("mode", ["bridge", "passthru"])
def test_a_macvtap(make: Make, both_qemus: str, mode: str) -> None:
    sh("ip link add up1 type veth peer name far1", "ip link set up1 up", "ip link set far1 up")
    vm = make(disk=f'[[net]]\nmacvtap = "up1"\nmode = "{mode}"\nqueues = 2\nboot = 0\n')
    before = seen(vm)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x800)) as far:
        far.bind(("far1", 0))
        far.settimeout(60)
        start(vm, "--set", "disk[0].boot=5", binary=both_qemus)
        (text,) = asked(vm, hmp("info network"))
        mac = text.partition("macaddr=")[2][:17]
        link = out("ip -d -o link show type macvtap")
        assert f"macvtap mode {mode}" in link
        assert mac in link
        if mode == "passthru":
            assert mac in out("ip -o link show up1")
        frame = far.recv(2000)  # iPXE asks for an address
        assert frame[6:12].hex(":") == mac
    stop(vm)
    assert seen(vm) == before


def test_names_are_the_machines_own(make: Make) -> None:
    """The plan tells them, so that a firewall can be told."""
    vm = make(disk="[[net]]\nnat = {}\n")
    done = qlaunch("plan", str(vm.path), "--json")
    steps = json.loads(done.stdout)["steps"]
    made = [s["step"] for s in steps]
    assert [s["step"] for s in made] == [
        "make-bridge", "set-forwarding", "nft-table", "run-dnsmasq"
    ]
    assert len({s["bridge"] for s in made if "bridge" in s} | {made[0]["name"]}) == 1


HELPER = Path("/usr/lib/qemu/qemu-bridge-helper")
AS_USER = """
mount -t sysfs sysfs /sys
mkdir -p "$D/etc/qemu"
echo "allow qtbr0" >"$D/etc/qemu/bridge.conf"
mount --bind /etc/passwd "$D/passwd"
mount -t overlay overlay -o lowerdir="$D/etc:/etc" /etc
mount --bind "$D/passwd" /etc/passwd
cp "$HELPER" "$D/helper"
chmod 4755 "$D/helper"
mount --bind "$D/helper" "$HELPER"
ip link add qtbr0 type bridge
ip link set qtbr0 up
b() {
    env HOME="$D/home" XDG_RUNTIME_DIR=/run/user/$U setpriv --reuid=$U --regid=$U --clear-groups \
        --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search -- \
        "$PYTHON" -m qlaunch "$@"
}
b plan vm.toml | head -n 1
b run vm.toml --detach || exit 1
ip -o link show type tun
b stop --now vm
echo "left: $(ip -o link show type tun)"
"""


@pytest.mark.skipif(not HELPER.exists(), reason="needs qemu-bridge-helper")
def test_an_ordinary_user_on_a_bridge() -> None:
    """By QEMU's setuid helper, which the launcher runs."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        stage = Stage(directory)
        stage.write("vm.toml", '[machine]\naccel = "tcg"\nmemory = "64M"\n[display]\n'
                    'type = "none"\n[[net]]\nbridge = "qtbr0"\nboot = 0\n')
        done = stage.run(
            AS_USER, D=name, U=str(UID), PYTHON=sys.executable, HELPER=str(HELPER),
        )
    assert done.returncode == 0, done.stderr
    plan, _, tap, *_, left = done.stdout.splitlines()
    assert "no host steps" in plan
    assert " master qtbr0 " in tap
    assert left == "left: "

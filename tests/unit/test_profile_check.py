# ruff: noqa: E501 - what is printed is compared whole, however long a line
"""The rules between the keys of a profile: the exact words."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.errors import ProfileError
from qlaunch.profile.read import read_profile

CASES: dict[str, tuple[str, str]] = {
    "nothing to boot from": (
        """\
""",
        """\
error: vm.toml: there is nothing to boot from
  allowed: a [[disk]], a [[cdrom]], or boot = 1 in a [[net]] or [[pci]]
hint: for a disk: [[disk]] and below it file = "NAME.qcow2", format = "qcow2\"""",
    ),
    "net without an end": (
        """\
[[net]]
boot = 1
""",
        """\
error: vm.toml:1: net[0]: not connected to anything
  allowed: one of bridge, tap, macvtap, nat, passt or user (bridge with tap names our tap)
hint: for a network without privileges: user = {}""",
    ),
    "net with two ends": (
        """\
[[net]]
bridge = "br0"
user = {}
""",
        """\
error: vm.toml:3: net[0].user: connected to more than one thing
  found:   bridge, user
  allowed: one of bridge, tap, macvtap, nat, passt or user (bridge with tap names our tap)""",
    ),
    "two networks of its own": (
        """\
[[net]]
nat = {}
[[net]]
nat = {}
""",
        """\
error: vm.toml:4: net[1].nat: net[0] has nat already; a machine has one such network
hint: use user = {} for this card""",
    ),
    "mode and mac": (
        """\
[[net]]
bridge = "br0"
mode = "vepa"
[[net]]
macvtap = "eth0"
mode = "passthru"
mac = "52:54:00:00:00:01"
""",
        """\
error: vm.toml:3: net[0].mode: only a macvtap has a mode
hint: add macvtap = "eth0", or drop it
error: vm.toml:7: net[1].mac: a card on a passthru macvtap has the link's own MAC address
hint: drop mac""",
    ),
    "sizes of cards": (
        """\
[[net]]
model = "e1000"
rx_queue_size = 1024
user = { dns = "10.0.2.2" }
mtu = 9000
""",
        """\
error: vm.toml:3: net[0].rx_queue_size: only a virtio card has queues of a chosen size
  found:   rx_queue_size = 1024, model = "e1000", user
hint: leave the key out
error: vm.toml:4: net[0].user.dns: the guest's name server must be in its network, beside the host
  found:   "10.0.2.2"
  allowed: in 10.0.2.0/24, but not 10.0.2.2
error: vm.toml:5: net[0].mtu: user-mode networking has no MTU to set
  found:   mtu = 9000, model = "e1000", user
hint: leave the key out""",
    ),
    "addresses": (
        """\
[[net]]
nat = { dns = ["1.1.1.300"], forward = ["tcp:80:80"] }
[[net]]
passt = { forward = ["tcp:80:81"] }
[[net]]
user = { net = "10.0.0.0/28", bootfile = "a" }
""",
        """\
error: vm.toml:2: net[0].nat.dns[0]: expected an IPv4 address
  found:   "1.1.1.300"
hint: for example "192.168.1.1"
error: vm.toml:4: net[1].passt.forward[0]: net[0].nat.forward[0] forwards the same port of the host
  found:   "tcp:80:81"
hint: another port of the host's
error: vm.toml:6: net[2].user.net: too small: QEMU gives the guest the fifteenth address
  found:   "10.0.0.0/28"
  allowed: /8 to /27
error: vm.toml:6: net[2].user.bootfile: the file is fetched by TFTP
hint: add tftp = "DIRECTORY\"""",
    ),
    "make_bridge": (
        """\
[[net]]
tap = "tap0"
make_bridge = true
""",
        """\
error: vm.toml:3: net[0].make_bridge: no bridge is named
hint: add bridge = "br0\"""",
    ),
    "queues": (
        """\
[[net]]
user = {}
queues = 2
""",
        """\
error: vm.toml:3: net[0].queues: more than one queue needs a virtio card on a bridge, tap, macvtap or nat
  found:   queues = 2, model = "virtio", user
hint: leave the key out""",
    ),
    "vhost": (
        """\
[[net]]
bridge = "br0"
model = "e1000"
vhost = true
""",
        """\
error: vm.toml:4: net[0].vhost: vhost needs a virtio card on a bridge, tap, macvtap or nat
  found:   vhost = true, model = "e1000"
hint: leave the key out""",
    ),
    "same mac": (
        """\
[[net]]
user = {}
mac = "52:54:00:00:00:01"
[[net]]
user = {}
mac = "52:54:00:00:00:01"
""",
        """\
error: vm.toml:6: net[1].mac: net[0] has the same MAC address
  found:   52:54:00:00:00:01
hint: change it in one of the two, or leave one table out""",
    ),
    "same tap": (
        """\
[[net]]
tap = "t"
[[net]]
tap = "t"
""",
        """\
error: vm.toml:4: net[1].tap: net[0] has the same tap
  found:   t
hint: change it in one of the two, or leave one table out""",
    ),
    "port number": (
        """\
[[net]]
user = { forward = ["tcp:70000:22"] }
""",
        """\
error: vm.toml:2: net[0].user.forward[0]: a port number from 1 to 65535 is wanted
  found:   "tcp:70000:22"
hint: for example "tcp:2222:22\"""",
    ),
    "forward address": (
        """\
[[net]]
user = { forward = ["tcp:1.2.3:2222:22"] }
""",
        """\
error: vm.toml:2: net[0].user.forward[0]: expected an IPv4 address
  found:   "tcp:1.2.3:2222:22"
hint: for example "tcp:127.0.0.1:2222:22\"""",
    ),
    "forward twice": (
        """\
[[net]]
user = { forward = ["tcp:2222:22", "tcp:2222:23"] }
""",
        """\
error: vm.toml:2: net[0].user.forward[1]: net[0].user.forward[0] forwards the same port of the host
  found:   "tcp:2222:23"
hint: another port of the host's""",
    ),
    "pins": (
        """\
[cpu]
cores = 4
pin = { vcpus = [0, 1, 2] }
""",
        """\
error: vm.toml:3: cpu.pin.vcpus: 3 entries listed for 4 vCPUs
  found:   sockets = 1, cores = 4, threads = 1
hint: one entry a vCPU, in order; an entry may be a list such as "2,10\"""",
    ),
    "more pins": (
        """\
cpu.pin.vcpus = [0, 1]
""",
        """\
error: vm.toml:1: cpu.pin.vcpus: 2 entries listed for 1 vCPUs
  found:   sockets = 1, cores = 1, threads = 1
hint: one entry a vCPU, in order; an entry may be a list such as "2,10\"""",
    ),
    "empty pin": (
        """\
[cpu]
pin = { vcpus = [[]], emulator = [] }
""",
        """\
error: vm.toml:2: cpu.pin.vcpus[0]: no host CPU for this vCPU
hint: for example ["2", "3"], or leave pin out
error: vm.toml:2: cpu.pin.emulator: an empty CPU list
hint: for example "0-1", or leave the key out""",
    ),
    "many cpus": (
        """\
[cpu]
sockets = 2
cores = 128
""",
        """\
error: vm.toml:1: cpu: 256 vCPUs, and a guest can have 255
  found:   sockets = 2, cores = 128, threads = 1
hint: fewer; or [machine] iommu = "intel\"""",
    ),
    "boot order": (
        """\
[[disk]]
file = "a"
boot = 1
[[net]]
user = {}
boot = 1
""",
        """\
error: vm.toml:6: net[0].boot: disk[0] has the same place in the boot order
  found:   1
hint: give each its own number; the lowest is tried first""",
    ),
    "same card": (
        """\
[[pci]]
device = "03:00.0"
[[pci]]
device = "0000:03:00.0"
""",
        """\
error: vm.toml:4: pci[1].device: pci[0] has the same host device
  found:   0000:03:00.0
hint: change it in one of the two, or leave one table out""",
    ),
    "another id": (
        """\
[[pci]]
device = "10de:1200"
id = "10de:1201"
""",
        """\
error: vm.toml:3: pci[0].id: device says another vendor:device
  found:   10de:1201
hint: leave id out""",
    ),
    "same disk": (
        """\
[[disk]]
file = "a"
[[disk]]
file = "./a"
read_only = true
""",
        """\
error: vm.toml:4: disk[1].file: disk[0] is the same file, and one of the two may write it
  found:   "DIR/a"
hint: make both read_only, or give each its own file""",
    ),
    "disk and cdrom": (
        """\
[[disk]]
file = "a"
[[cdrom]]
file = "a"
""",
        """\
error: vm.toml:4: cdrom[0].file: disk[0] is the same file, and one of the two may write it
  found:   "DIR/a"
hint: make both read_only, or give each its own file""",
    ),
    "x_vga and vga": (
        """\
[display]
vga = "std"
[[pci]]
device = "03:00.0"
x_vga = true
""",
        """\
warning: vm.toml:5: pci[0].x_vga: two primary cards: the guest's firmware may choose the emulated one
  found:   x_vga = true, display.vga = "std"
hint: set display.vga = "none\"""",
    ),
    "two x_vga": (
        """\
[[pci]]
device = "03:00.0"
x_vga = true
[[pci]]
device = "04:00.0"
x_vga = true
""",
        """\
error: vm.toml:6: pci[1].x_vga: pci[0] is the primary card already
  found:   x_vga = true
hint: leave it out for this card""",
    ),
    "hyperv on linux": (
        """\
guest = "linux"
[cpu]
hyperv = true
""",
        """\
note: vm.toml:3: cpu.hyperv: Hyper-V enlightenments do little for a Linux guest, which prefers KVM's own
hint: leave hyperv out""",
    ),
    "iothread": (
        """\
[[disk]]
file = "a"
bus = "sata"
iothread = true
""",
        """\
error: vm.toml:4: disk[0].iothread: an iothread needs a virtio disk
  found:   iothread = true, bus = "sata"
hint: use bus = "virtio\"""",
    ),
    "slot of a sata disk": (
        """\
[[disk]]
file = "a"
bus = "sata"
addr = "05"
""",
        """\
error: vm.toml:4: disk[0].addr: only a virtio disk has a slot of its own
  found:   addr = "05.0", bus = "sata"
hint: use bus = "virtio\"""",
    ),
    "read-only ide": (
        """\
[[disk]]
file = "a"
bus = "ide"
read_only = true
""",
        """\
error: vm.toml:4: disk[0].read_only: QEMU has no read-only disk on this bus
  found:   read_only = true, bus = "ide"
hint: use bus = "virtio\"""",
    ),
    "native io": (
        """\
[[disk]]
file = "a"
io = "native"
cache = "writeback"
""",
        """\
error: vm.toml:3: disk[0].io: native I/O needs a cache mode that bypasses the page cache
  found:   io = "native", cache = "writeback"
hint: use cache = "none", or io = "threads\"""",
    ),
    "native io without a word of the cache": (
        '[[disk]]\nfile = "a"\nio = "native"\n',
        """\
error: vm.toml:3: disk[0].io: native I/O needs a cache mode that bypasses the page cache
  found:   io = "native"
hint: use cache = "none", or io = "threads\"""",
    ),
    "two stdio": (
        """\
[[serial]]
type = "stdio"
[[serial]]
type = "stdio"
""",
        """\
error: vm.toml:4: serial[1].type: serial[0] is on the terminal already
  found:   "stdio"
hint: "socket" here; qlaunch console shows it""",
    ),
    "file of a socket": (
        """\
[[serial]]
type = "socket"
file = "a"
""",
        """\
error: vm.toml:3: serial[0].file: a file is for type = "file", not "socket"
hint: type = "file", or leave file out""",
    ),
    "same cd port": (
        """\
[[cdrom]]
file = "a"
port = 1
[[cdrom]]
file = "b"
port = 1
""",
        """\
error: vm.toml:6: cdrom[1].port: cdrom[0] has the same port
  found:   1
hint: another port, or leave it out""",
    ),
    "same slot": (
        """\
[balloon]
addr = "05"
[[disk]]
file = "a"
addr = "0x5"
""",
        """\
error: vm.toml:2: balloon.addr: disk[0] is in the same guest slot
  found:   addr = "05.0"
hint: give each its own, or leave addr out""",
    ),
    "same slot behind a port": (
        """\
[[pci]]
device = "03:00.0"
addr = "00.0"
[[pci]]
device = "03:00.1"
addr = "00.0"
""",
        """\
error: vm.toml:6: pci[1].addr: pci[0] is in the same guest slot
  found:   addr = "00.0"
hint: give each its own, or leave addr out""",
    ),
    "no function 0": (
        """\
[balloon]
addr = "05.1"
""",
        """\
error: vm.toml:2: balloon.addr: nothing is at function 0 of guest slot 05, so the guest does not look for the others
  found:   addr = "05.1"
hint: use addr = "05.0\"""",
    ),
    "small memory": (
        """\
[machine]
memory = "1K"
""",
        """\
error: vm.toml:2: machine.memory: less than a machine can start with
  found:   1K
  allowed: 1M or more""",
    ),
    "odd pages": (
        """\
[machine]
memory = "1536M"
hugepages = "1G"
""",
        """\
error: vm.toml:2: machine.memory: 1536M of memory is not a whole number of 1G pages
hint: use 2G, or other hugepages""",
    ),
    "daemonize": (
        """\
[qemu]
args = ["-device", "x", "--daemonize"]
""",
        """\
error: vm.toml:2: qemu.args[2]: -daemonize is not for a profile: QEMU must stay qlaunch's child, and dies of SIGSYS under its sandbox
  found:   "--daemonize"
hint: leave it out""",
    ),
    "qmp on stdio": (
        """\
[qemu]
args = ["-qmp", "stdio"]
""",
        """\
error: vm.toml:2: qemu.args[0]: -qmp stdio takes the terminal that qlaunch talks on
  found:   -qmp stdio
hint: for a serial console: [[serial]] with type = "stdio\"""",
    ),
    "an open file of qlaunch's": (
        """\
[qemu]
args = ["-netdev", "tap,id=x,fd=101"]
""",
        """\
error: vm.toml:2: qemu.args[1]: QEMU's open files are qlaunch's, and none is for a profile to name
  found:   "tap,id=x,fd=101"
hint: name a path; sockets, taps and devices have tables of their own""",
    ),
    "two words": (
        """\
[qemu]
args = ["-device usb-tablet"]
""",
        """\
error: vm.toml:2: qemu.args[0]: two arguments in one
  found:   "-device usb-tablet"
hint: write "-device", "usb-tablet\"""",
    ),
    "option twice": (
        """\
[qemu]
args = ["-m", "4G"]
""",
        """\
warning: vm.toml:2: qemu.args[0]: -m is given a second time; the result depends on QEMU
  found:   "-m"
hint: the key for it is machine.memory""",
    ),
    "set without a device": (
        """\
[qemu.set]
mtu = 1
""",
        """\
error: vm.toml:2: qemu.set.mtu: expected a device's id and its property
  found:   "mtu"
hint: in quotes, for example "net0.host_mtu" = 9000""",
    ),
    "env name": (
        """\
[qemu.env]
"A=B" = "x"
""",
        """\
error: vm.toml:2: qemu.env."A=B": expected a variable's name, without "="
  found:   "A=B"
hint: for example GDK_BACKEND = "x11\"""",
    ),
    "control in fw_cfg": (
        """\
[machine.fw_cfg]
"opt/x" = "a\\nb"
""",
        """\
error: vm.toml:2: machine.fw_cfg."opt/x": a control character
  found:   "a\\nb"
hint: take it out; UTF-8 text is fine""",
    ),
    "newline behind a name": (
        """\
[[net]]
tap = "tap0\\n"
""",
        """\
error: vm.toml:2: net[0].tap: a control character
  found:   "tap0\\n"
hint: take it out; UTF-8 text is fine""",
    ),
    "control in a file": (
        """\
[[disk]]
file = "a\\u001bb"
""",
        """\
error: vm.toml:2: disk[0].file: a control character
  found:   "DIR/a\\u001Bb"
hint: take it out; UTF-8 text is fine""",
    ),
    "nul in a hook": (
        """\
[hooks]
before = [["a\\tb", "c\\u0000"]]
""",
        """\
error: vm.toml:2: hooks.before[0][1]: a control character
  found:   "c\\u0000"
hint: take it out; UTF-8 text is fine""",
    ),
    "empty hook": (
        """\
[hooks]
after = [[]]
""",
        """\
error: vm.toml:2: hooks.after[0]: a hook without a program
  allowed: ["PROGRAM", "ARGUMENT", …]""",
    ),
    "empty model": (
        """\
[cpu]
model = ""
""",
        """\
error: vm.toml:2: cpu.model: an empty text
  found:   ""
hint: leave the key out, and the default is taken""",
    ),
}

BOOT = "\n[[cdrom]]\nfile = 'install.iso'\n"


def told(directory: Path, text: str) -> str:
    """The rules' errors, or the warnings of a profile that was read."""
    path = directory / "vm.toml"
    path.write_text(text, encoding="utf-8")
    try:
        problems = read_profile(path).warnings
    except ProfileError as error:
        problems = error.problems
    said = "\n".join(map(str, problems)).replace(",\n           ", ", ")
    return said.replace(str(directory), "DIR")


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose name is short enough to be shown whole."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("name", CASES)
def test_contradiction_is_told_in_these_words(short: Path, name: str) -> None:
    text, expected = CASES[name]
    boot = "" if "boot from" in name else BOOT
    assert told(short, text + boot) == expected


@pytest.mark.parametrize(
    "text",
    [
        '[[net]]\nbridge = "br0"\ntap = "tap0"\nmake_bridge = true\n',
        '[[net]]\ntap = "tap0"\nqueues = 4\nvhost = true\n',
        '[[disk]]\nfile = "a"\nio = "native"\ncache = "none"\niothread = true\n',
        '[[disk]]\nfile = "a"\nread_only = true\n[[disk]]\nfile = "a"\nread_only = true\n',
        '[cpu]\ncores = 2\nthreads = 2\npin = { vcpus = [0, "1", "2,3", "4-5"] }\n',
        '[cpu]\nvendor_id = "0123456789ab"\n',
        '[[pci]]\ndevice = "03:00.0"\nport = "ioh3420"\naddr = "00.0"\n'
        '[[pci]]\ndevice = "03:00.1"\nport = "ioh3420"\naddr = "00.1"\n'
        '[[pci]]\ndevice = "04:00.0"\nport = "ioh3420"\naddr = "00.0"\n',
        '[machine]\nmemory = "1G"\nhugepages = "1G"\n',
        '[qemu]\nargs = ["-device", "usb-tablet", "-append", "a b"]\nset = {"net0.host_mtu" = 9000}\n',
        '[hooks]\nbefore = [["sh", "a\\tb\\nc"]]\n',
        '[[serial]]\ntype = "stdio"\n[[serial]]\ntype = "file"\nfile = "a"\n',
        '[display]\nvga = "std"\n',
    ],
)
def test_nothing_against(tmp_path: Path, text: str) -> None:
    assert told(tmp_path, text + BOOT) == ""


@pytest.mark.parametrize(
    "text",
    [
        '[[net]]\nuser = {}\nboot = 1\n',
        '[[pci]]\ndevice = "03:00.0"\nboot = 0\n',
        '[qemu]\nargs = ["-kernel", "vmlinuz"]\n',
        '[[disk]]\nfile = "a"\n',
    ],
)
def test_something_to_boot_from(tmp_path: Path, text: str) -> None:
    assert told(tmp_path, text) == ""

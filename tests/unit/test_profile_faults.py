# ruff: noqa: E501 - what is printed is compared whole, however long a line
"""What is wrong with a key's value: the exact words, every fault at once, no library's jargon."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from qlaunch.errors import ProfileError
from qlaunch.profile.cpu import Cpu, Enlightenment
from qlaunch.profile.profile import Profile
from qlaunch.profile.read import read_profile

CASES: dict[str, tuple[str, str]] = {
    "unknown key, near": (
        """\
[cpu]
cors = 4
""",
        """\
error: vm.toml:2: cpu.cors: unknown key
  found:   cors = 4
  allowed: <keys of cpu>
hint: did you mean cores?""",
    ),
    "unknown key, dash": (
        """\
[cpu]
hide-kvm = true
""",
        """\
error: vm.toml:2: cpu.hide-kvm: unknown key
  found:   hide-kvm = true
  allowed: <keys of cpu>
hint: did you mean hide_kvm?""",
    ),
    "unknown key, capital": (
        """\
[Machine]
""",
        """\
error: vm.toml:1: Machine: unknown key
  found:   Machine = {}
  allowed: <keys>
hint: did you mean machine?""",
    ),
    "key of another table": (
        """\
memory = "8G"
""",
        """\
error: vm.toml:1: memory: expected a table, not text
  found:   "8G"
hint: memory belongs in [machine] or [[numa]] or [[vgpu]]""",
    ),
    "key of the top in a table": (
        """\
[cpu]
guest = "linux"
""",
        """\
error: vm.toml:2: cpu.guest: unknown key
  found:   guest = "linux"
  allowed: <keys of cpu>
hint: guest belongs above the first table""",
    ),
    "unknown key, far": (
        """\
[cpu]
xyzzy = [1, {a = 2}]
""",
        """\
error: vm.toml:2: cpu.xyzzy: unknown key
  found:   xyzzy = [1, {a = 2}]
  allowed: <keys of cpu>""",
    ),
    "unknown table": (
        """\
[[sound]]
model = "hda"
""",
        """\
error: vm.toml:1: sound: unknown key
  found:   sound = [{model = "hda"}]
  allowed: <keys>""",
    ),
    "unknown key, quoted": (
        """\
[cpu]
"a b\\n" = 1
""",
        """\
error: vm.toml:2: cpu."a b\\n": unknown key
  found:   "a b\\n" = 1
  allowed: <keys of cpu>""",
    ),
    "number as text": (
        """\
[cpu]
cores = "4"
""",
        """\
error: vm.toml:2: cpu.cores: expected a whole number from 1 to 1024, not text
  found:   "4"
hint: write it without quotes: 4""",
    ),
    "fraction": (
        """\
[cpu]
cores = 2.0
""",
        """\
error: vm.toml:2: cpu.cores: expected a whole number from 1 to 1024, not a number with a fraction
  found:   2.0""",
    ),
    "truth as text": (
        """\
[machine]
boot_menu = "True"
""",
        """\
error: vm.toml:2: machine.boot_menu: expected true or false, not text
  found:   "True"
hint: write true without quotes""",
    ),
    "truth for a number": (
        """\
[cpu]
cores = true
""",
        """\
error: vm.toml:2: cpu.cores: expected a whole number from 1 to 1024, not true
  found:   true""",
    ),
    "date for text": (
        """\
[cpu]
model = 2020-01-01
""",
        """\
error: vm.toml:2: cpu.model: expected text, not a date or time
  found:   2020-01-01""",
    ),
    "too small": (
        """\
[cpu]
cores = 0
""",
        """\
error: vm.toml:2: cpu.cores: expected a whole number from 1 to 1024
  found:   0""",
    ),
    "too large": (
        """\
[cpu]
cores = 100000000000000000000000000000
""",
        """\
error: vm.toml:2: cpu.cores: expected a whole number from 1 to 1024
  found:   100000000000000000000000000000""",
    ),
    "literal, near": (
        """\
[[disk]]
file = "a"
bus = "virtoi"
""",
        """\
error: vm.toml:3: disk[0].bus: unknown value
  found:   "virtoi"
  allowed: "ide", "nvme", "sata", "scsi", "usb" or "virtio"
hint: did you mean "virtio"?""",
    ),
    "literal, far": (
        """\
[[disk]]
file = "a"
bus = "scuzzy"
""",
        """\
error: vm.toml:3: disk[0].bus: unknown value
  found:   "scuzzy"
  allowed: "ide", "nvme", "sata", "scsi", "usb" or "virtio\"""",
    ),
    "literal of a union": (
        """\
[machine]
hugepages = "4M"
""",
        """\
error: vm.toml:2: machine.hugepages: unknown value
  found:   "4M"
  allowed: true, false, "1G" or "2M\"""",
    ),
    "size without unit": (
        """\
[machine]
memory = "8"
""",
        """\
error: vm.toml:2: machine.memory: expected a size with a unit like 8G or 512M
  found:   "8\"""",
    ),
    "size as a number": (
        """\
[machine]
memory = 8
""",
        """\
error: vm.toml:2: machine.memory: expected a size with a unit like 8G or 512M, not a whole number
  found:   8
hint: write it with a unit, in quotes: "8G" or "8M\"""",
    ),
    "huge size": (
        """\
[machine]
memory = "99999999999999999999G"
""",
        """\
error: vm.toml:2: machine.memory: expected a size with a unit like 8G or 512M
  found:   "99999999999999999999G\"""",
    ),
    "duration": (
        """\
[stop]
timeout = "soon"
""",
        """\
error: vm.toml:2: stop.timeout: expected a duration with a unit like 60s or 2min
  found:   "soon\"""",
    ),
    "pci address": (
        """\
[[pci]]
device = "3:0.0"
""",
        """\
error: vm.toml:2: pci[0].device: expected a PCI address like 03:00.0 or a vendor:device pair like 10de:1200
  found:   "3:0.0\"""",
    ),
    "pci id": (
        """\
[[pci]]
device = "03:00.0"
id = "10de"
""",
        """\
error: vm.toml:3: pci[0].id: expected a vendor:device pair like 10de:1200
  found:   "10de\"""",
    ),
    "slot": (
        """\
[[disk]]
file = "a"
addr = "20"
""",
        """\
error: vm.toml:3: disk[0].addr: expected a guest slot like 05 or 1c.0 (hexadecimal, 00 to 1f)
  found:   "20\"""",
    ),
    "multicast mac": (
        """\
[[net]]
user = {}
mac = "53:54:00:26:7f:96"
""",
        """\
error: vm.toml:3: net[0].mac: expected a unicast MAC address (the first byte even), like 52:54:00:26:7f:96
  found:   "53:54:00:26:7f:96\"""",
    ),
    "short mac": (
        """\
[[net]]
user = {}
mac = "52:54:00"
""",
        """\
error: vm.toml:3: net[0].mac: expected a MAC address like 52:54:00:26:7f:96
  found:   "52:54:00\"""",
    ),
    "cpu list": (
        """\
[cpu]
pin = { vcpus = ["0"], emulator = "3-1" }
""",
        """\
error: vm.toml:2: cpu.pin.emulator: expected a CPU list like 0,4 or 2-5, rising, none over 8191
  found:   "3-1\"""",
    ),
    "cpu number": (
        """\
[cpu.pin]
vcpus = [-1]
""",
        """\
error: vm.toml:2: cpu.pin.vcpus[0]: expected CPU numbers from 0 to 8191
  found:   -1""",
    ),
    "cpu truth": (
        """\
[cpu.pin]
vcpus = [true]
""",
        """\
error: vm.toml:2: cpu.pin.vcpus[0]: expected a CPU list like 0,4 or 2-5, not true
  found:   true""",
    ),
    "cpu blanks": (
        """\
[cpu.pin]
vcpus = ["1 2"]
""",
        """\
error: vm.toml:2: cpu.pin.vcpus[0]: expected a CPU list like 0,4 or 2-5
  found:   "1 2\"""",
    ),
    "uuid": (
        """\
uuid = "1234"
""",
        """\
error: vm.toml:1: uuid: expected a UUID like 6f9619ff-8b86-4011-b42d-00c04fc964ff
  found:   "1234\"""",
    ),
    "name": (
        """\
name = "../x"
""",
        """\
error: vm.toml:1: name: expected a name of letters, digits, spaces and . _ + - (at most 63)
  found:   "../x\"""",
    ),
    "link name": (
        """\
[[net]]
bridge = "a/b"
""",
        """\
error: vm.toml:2: net[0].bridge: expected a network interface's name (letters, digits, . _ -, at most 15)
  found:   "a/b\"""",
    ),
    "vendor id": (
        """\
[cpu]
vendor_id = "abc,def"
""",
        """\
error: vm.toml:2: cpu.vendor_id: expected 1 to 12 printable ASCII characters, no comma
  found:   "abc,def\"""",
    ),
    "forward": (
        """\
[[net]]
[net.user]
forward = [
  "tcp:2222:22",
  "2223:23",
]
""",
        """\
error: vm.toml:5: net[0].user.forward[1]: expected a forward like tcp:2222:22 or tcp:127.0.0.1:2222:22
  found:   "2223:23\"""",
    ),
    "feature": (
        """\
[cpu]
flags = ["svm"]
""",
        """\
error: vm.toml:2: cpu.flags[0]: expected a CPU feature with its sign, like +invtsc or -svm
  found:   "svm\"""",
    ),
    "fw_cfg key": (
        """\
[machine.fw_cfg]
"etc/x" = "y"
""",
        """\
error: vm.toml:2: machine.fw_cfg."etc/x": expected a name like opt/org.example/key (opt/ and up to 51 more)
  found:   "etc/x\"""",
    ),
    "fw_cfg value": (
        """\
[machine.fw_cfg]
"opt/x" = 1
""",
        """\
error: vm.toml:2: machine.fw_cfg."opt/x": expected text, not a whole number
  found:   1
hint: write it in quotes: "1\"""",
    ),
    "enlightenment in a list": (
        """\
[cpu]
hyperv = [
  "relaxed",
  "vapik",
]
""",
        """\
error: vm.toml:4: cpu.hyperv[1]: unknown value
  found:   "vapik"
  allowed: <enlightenments>
hint: did you mean "vapic"?""",
    ),
    "list or truth": (
        """\
[cpu]
hyperv = "yes"
""",
        """\
error: vm.toml:2: cpu.hyperv: expected true, false or a list, not text
  found:   "yes"
hint: write true without quotes""",
    ),
    "missing key": (
        """\
[[disk]]
bus = "sata"
""",
        """\
error: vm.toml:1: disk[0]: the key file is missing
hint: file: Image file or block device.""",
    ),
    "one for many": (
        """\
[disk]
file = "a"
""",
        """\
error: vm.toml:1: disk: expected a list of tables, not a table
  found:   {file = "a"}
hint: write [[disk]], once for each""",
    ),
    "many for one": (
        """\
[[cpu]]
cors = 1
""",
        """\
error: vm.toml:1: cpu: expected a table, not a list
  found:   [{cors = 1}]
hint: write [cpu], once
error: vm.toml:2: cpu[0].cors: unknown key
  found:   cors = 1
  allowed: <keys of cpu>
hint: did you mean cores?""",
    ),
    "inline one for many": (
        """\
net = { user = {}, maac = 1 }
""",
        """\
error: vm.toml:1: net: expected a list of tables, not a table
  found:   {user = {}, maac = 1}
hint: write [[net]], once for each
error: vm.toml:1: net.maac: unknown key
  found:   maac = 1
  allowed: bridge, make_bridge, tap, macvtap, mode, nat, passt, user, mac, model, queues, vhost, mtu, rx_queue_size, rom, boot, addr
hint: did you mean mac?""",
    ),
    "nested one for many": (
        """\
[machine.acpi_tables]
file = "a"
""",
        """\
error: vm.toml:1: machine.acpi_tables: expected a list of tables, not a table
  found:   {file = "a"}
hint: write [[machine.acpi_tables]], once for each""",
    ),
    "truth for a table": (
        """\
[[net]]
user = true
""",
        """\
error: vm.toml:2: net[0].user: expected a table, not true
  found:   true
hint: user = {} takes its defaults""",
    ),
    "text for a list": (
        """\
[cpu]
flags = "+svm"
""",
        """\
error: vm.toml:2: cpu.flags: expected a list, not text
  found:   "+svm"
hint: write it in brackets: ["+svm"]""",
    ),
    "list of a list": (
        """\
[hooks]
before = ["true"]
""",
        """\
error: vm.toml:2: hooks.before[0]: expected a list, not text
  found:   "true"
hint: write it in brackets: ["true"]""",
    ),
    "extends of a number": (
        """\
extends = 5
""",
        """\
error: vm.toml:1: extends: expected text or a list, not a whole number
  found:   5
hint: write it in quotes: "5\"""",
    ),
    "empty path": (
        """\
[[disk]]
file = ""
""",
        """\
error: vm.toml:2: disk[0].file: expected a path, not an empty text
  found:   "\"""",
    ),
    "unset variable": (
        """\
[[disk]]
file = "${NOT_SET_AT_ALL}/a"
""",
        """\
error: vm.toml:2: disk[0].file: the environment variable NOT_SET_AT_ALL is not set
  found:   "${NOT_SET_AT_ALL}/a"
hint: export it, or write the path out""",
    ),
    "control characters": (
        """\
guest = "a\\u0000\\u001b[2J"
""",
        """\
error: vm.toml:1: guest: unknown value
  found:   "a\\u0000\\u001B[2J"
  allowed: "linux", "other", "windows10", "windows11" or "windows7\"""",
    ),
}

BOOT = "\n[[cdrom]]\nfile = 'install.iso'\n"


def told(directory: Path, text: str) -> str:
    """What reading the profile says, with the directory's name taken out."""
    path = directory / "vm.toml"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ProfileError) as caught:
        read_profile(path)
    return str(caught.value).replace(str(directory), "DIR")


@pytest.mark.parametrize("name", CASES)
def test_fault_is_told_in_these_words(tmp_path: Path, name: str) -> None:
    text, expected = CASES[name]
    keys = ", ".join(Profile.__struct_fields__)
    said = told(tmp_path, text + BOOT).replace(",\n           ", ", ")
    said = said.replace(f"allowed: {keys}", "allowed: <keys>")
    *names, last = (f'"{name}"' for name in sorted(get_args(Enlightenment)))
    said = said.replace(f"{', '.join(names)} or {last}", "<enlightenments>")
    assert said.replace(", ".join(Cpu.__struct_fields__), "<keys of cpu>") == expected


def test_a_long_list_of_choices_is_folded_at_80_columns(tmp_path: Path) -> None:
    lines = told(tmp_path, "sund = 1\n" + BOOT).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].startswith("  allowed: name, guest, ")
    assert lines[2].endswith(",")
    assert lines[3].startswith("           ")


@pytest.mark.parametrize("name", CASES)
def test_no_jargon(name: str) -> None:
    message = CASES[name][1]
    for word in ("$.", "Expected `", "int`", "str`", "None", "NoneType", "Struct", "object"):
        assert word not in message


def test_long_values_are_shortened(tmp_path: Path) -> None:
    message = told(tmp_path, 'guest = "' + "long " * 40 + '"' + BOOT)
    found = next(line for line in message.splitlines() if line.startswith("  found:"))
    assert len(found.removeprefix("  found:   ")) == 60
    assert found.endswith('…"')


def test_all_faults_in_file_order(tmp_path: Path) -> None:
    text = """\
gest = "linux"
[machine]
memory = "lots"
boot_menu = "no"
[cpu]
cores = 4
pin = { vcpus = [0, 1] }
[[disk]]
bus = "virtoi"
[[net]]
bridge = "br0"
user = {}
[[cdrom]]
file = "a"
boot = 1
[[cdrom]]
file = "${NOT_SET_AT_ALL}"
boot = 1
"""
    places = [
        line.split(": ")[1:3]
        for line in told(tmp_path, text).splitlines()
        if line.startswith("error")
    ]
    assert places == [
        ["vm.toml:1", "gest"],
        ["vm.toml:3", "machine.memory"],
        ["vm.toml:4", "machine.boot_menu"],
        ["vm.toml:7", "cpu.pin.vcpus"],
        ["vm.toml:8", "disk[0]"],
        ["vm.toml:9", "disk[0].bus"],
        ["vm.toml:12", "net[0].user"],
        ["vm.toml:17", "cdrom[1].file"],
        ["vm.toml:18", "cdrom[1].boot"],
    ]


@pytest.mark.parametrize(
    "text",
    [
        'disks = [{ file = "a" }]\n',  # an unknown key may be what is missed
        '[[disk]]\nfil = "a"\n',
        '[[net]]\nbrige = "br0"\n' + BOOT,
        "[cpu]\ncores = '4'\npin = { vcpus = [0, 1, 2, 3] }\n" + BOOT,
        '[[net]]\nuser = {}\nqueues = 2\nmodel = "virtoi"\n' + BOOT,
    ],
)
def test_a_fault_brings_no_false_contradiction(tmp_path: Path, text: str) -> None:
    message = told(tmp_path, text)
    for word in ("boot from", "connected", "listed", "one queue"):
        assert word not in message

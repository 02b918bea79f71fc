"""Profiles that hypothesis grows from the profile's own types, so that every key is among them.

Mostly of the right form, because nonsense never gets past the reader; now and then something else.
"""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st
from msgspec import inspect as mi

from qlaunch import values
from qlaunch.profile.tables import whole

GOOD: dict[type, list[Any]] = {
    values.PciAddress: ["03:00.0", "0000:00:14.0", "01:00.1"],
    values.PciId: ["10de:1200", "1002:6798"],
    values.PciSelector: ["03:00.0", "10de:1200", "01:00.0", "02:00.0", "00:12.0"],
    values.GuestSlot: ["05", "1c.0", "1f", "06", "06.1", "00", "2"],
    values.Size: ["8G", "512M", "1M", "2M", "4K", "0G", "900T"],
    values.Duration: ["60s", "2min", "0s", "500ms"],
    values.MacAddress: ["52:54:00:26:7f:96", "52:54:00:00:00:01"],
    values.Ipv4Network: ["192.168.77.0/24", "10.0.0.0/8", "127.0.0.0/8"],
    values.VmName: ["win7", "a b"],
    values.HostPath: ["/tmp/disk.qcow2", "a,b.img", "~/x", "/dev/sda", "/dev/null", "/"],
    values.Program: ["qemu-system-x86_64", "/usr/bin/false", "~/qemu"],
    values.CpuSet: ["0", "2-3", 1, [0, 2], "0,4-6", "8191"],
}
# Texts whose form is in a rule of its own, and what stands in texts without any.
TEXTS = [
    "virtio", "br0", "eth0", "enp4s0", "tcp:2222:22", "udp:53:53", "46d:c52b", "046d:c52b", "1-4",
    "host", "pc", "q35", "+invtsc", "opt/org.example/x", "a", "", "stdio", "root", "nobody", "vnc",
    "fff6f017-3417-4ad3-b05e-17ae3e1a4615", "i915-GVTg_V5_4", ">=512M", ">=1920x1080", "mdpy",
    "1.2.3.4", "::1", "127.0.0.1", "-daemonize", "a,b=c", "localtime", "2013-10-17", "cd", "usb0",
    "disk0", "net0.mtu", "/dev/input/event3", "pcie.0", "auto", "none", "x" * 70,
]  # fmt: skip
LEFT = ("name", "extends")  # no host is needed to find fault with these
WRONG = st.sampled_from([
    True, -1, 0, 1 << 70, 1.5, float("inf"), "", "\0", "\n", "é", "\U0001f600", [], {}, [[]],
    {"": 1}, {"auto": True},
]) | st.text(max_size=6)  # fmt: skip


def profiles() -> st.SearchStrategy[dict[str, Any]]:
    """Whole profiles, as TOML's values; there is something to boot from, when nothing else."""
    grown = _right(whole())
    return grown.map(
        lambda tree: {"cdrom": [{"file": "a.iso"}]} | {k: tree[k] for k in tree if k not in LEFT}
    )


def _of(kind: mi.Type) -> st.SearchStrategy[Any]:
    right = _right(kind)
    return st.integers(0, 199).flatmap(lambda n: WRONG if n == 199 else right)


def _right(kind: mi.Type) -> st.SearchStrategy[Any]:
    if isinstance(kind, mi.Metadata):
        return _right(kind.type)
    if isinstance(kind, mi.StructType):
        return _table(kind)
    if isinstance(kind, mi.UnionType):
        inner = [t for t in kind.types if not isinstance(t, mi.NoneType)]
        return st.one_of([_right(t) for t in inner])
    if isinstance(kind, mi.VarTupleType):
        return st.lists(_of(kind.item_type), min_size=1, max_size=2)
    if isinstance(kind, mi.DictType):
        return st.dictionaries(st.sampled_from(TEXTS), _of(kind.value_type), max_size=2)
    return _plain(kind)


def _plain(kind: mi.Type) -> st.SearchStrategy[Any]:
    if isinstance(kind, mi.CustomType):
        return st.sampled_from(GOOD[kind.cls])
    if isinstance(kind, mi.LiteralType):
        return st.sampled_from(kind.values)
    if isinstance(kind, mi.BoolType):
        return st.booleans()
    if isinstance(kind, mi.IntType):
        low, high = kind.ge or 0, kind.le or 1 << 16
        return st.sampled_from([low, min(low + 1, high), high]) | st.integers(low, high)
    if isinstance(kind, mi.FloatType):
        return st.floats(0, 100)
    if isinstance(kind, mi.StrType):
        pattern = re.compile(kind.pattern or "")
        fitting = [text for text in TEXTS if pattern.search(text)]
        return st.sampled_from(fitting) if fitting else st.from_regex(pattern)
    raise AssertionError(f"a type that no profile had: {kind}")


def _table(kind: mi.StructType) -> st.SearchStrategy[dict[str, Any]]:
    """Some of a table's keys: those it must have, and up to four more."""
    fields = {f.encode_name: _of(f.type) for f in kind.fields}
    must = [f.encode_name for f in kind.fields if f.required]
    may = [name for name in fields if name not in must]

    def some(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({name: fields[name] for name in (*must, *names)})

    if not may:
        return some([])
    return st.lists(st.sampled_from(may), max_size=4, unique=True).flatmap(some)

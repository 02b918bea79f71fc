"""How typed values cross JSON: one pair of hooks for facts, steps, journal and plan.

A value becomes its `str()` and is parsed back by the same function a profile uses, so what a
journal or a facts file holds is what a user would type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from qlaunch import values

T = TypeVar("T")

PARSERS: dict[type, Callable[[str], Any]] = {
    values.PciAddress: values.parse_pci_address,
    values.PciId: values.parse_pci_id,
    values.PciSelector: values.parse_pci_selector,
    values.GuestSlot: values.parse_guest_slot,
    values.Size: values.parse_size,
    values.Duration: values.parse_duration,
    values.MacAddress: values.parse_mac,
    values.VmName: values.parse_vm_name,
    values.Ipv4Network: values.parse_ipv4_network,
    values.CpuSet: values.parse_cpu_set,
    values.HostPath: values.HostPath,
    values.Program: values.Program,
}


def decode_value(kind: type, raw: object) -> object:
    """msgspec `dec_hook`: the text (or CPU numbers) that a user or `to_json` wrote → the value.

    Raises ValueError for a bad text and TypeError for what is no text at all.
    """
    if kind is values.CpuSet and isinstance(raw, list):
        return values.parse_cpu_numbers(raw)  # a tuple's subclass is written as an array
    if kind is values.CpuSet and type(raw) is int:
        return values.parse_cpu_numbers((raw,))
    parser = PARSERS.get(kind)
    if parser is None or not isinstance(raw, str):
        raise TypeError(f"text for {kind.__name__}, got {type(raw).__name__}")
    return parser(raw)


def to_json(value: object, *, indent: int = 0) -> bytes:
    """A Struct (or anything msgspec knows) → JSON; `indent` > 0 for people."""
    raw = msgspec.json.encode(value, enc_hook=str)
    return msgspec.json.format(raw, indent=indent) if indent else raw


def from_json(raw: bytes | str, kind: type[T]) -> T:
    """JSON → `kind`. Raises msgspec.DecodeError (ValidationError for a wrong shape)."""
    return msgspec.json.decode(raw, type=kind, dec_hook=decode_value)

"""Typed values: what is typed in is read, what is not is refused in words, `str()` reads back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlaunch import values
from qlaunch.codec import PARSERS, decode_value, from_json, to_json
from qlaunch.values import CpuSet, Duration, GuestSlot, PciAddress, PciSelector, Size


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (values.parse_pci_address, "03:00.0", "0000:03:00.0"),
        (values.parse_pci_address, " 0000:3F:1F.7 ", "0000:3f:1f.7"),
        (values.parse_pci_address, "10000:e1:00.0", "10000:e1:00.0"),
        (values.parse_pci_address, "00010000:e1:00.0", "10000:e1:00.0"),
        (values.parse_pci_id, "10DE:1200", "10de:1200"),
        (values.parse_pci_selector, "03:00.1", "0000:03:00.1"),
        (values.parse_pci_selector, "10de:1200", "10de:1200"),
        (values.parse_guest_slot, "5", "05.0"),
        (values.parse_guest_slot, "0x1C.3", "1c.3"),
        (values.parse_size, "8G", "8G"),
        (values.parse_size, "1536M", "1536M"),
        (values.parse_size, "2048K", "2M"),
        (values.parse_size, "1GiB", "1G"),
        (values.parse_size, "1000B", "1000B"),
        (values.parse_size, "0M", "0B"),
        (values.parse_duration, "60s", "60s"),
        (values.parse_duration, "1.5min", "90s"),
        (values.parse_duration, "250ms", "0.25s"),
        (values.parse_duration, "1h", "3600s"),
        (values.parse_mac, "52:54:00:26:7F:96", "52:54:00:26:7f:96"),
        (values.parse_vm_name, "My VM_2.0", "My VM_2.0"),
        (values.parse_ipv4_network, " 10.0.0.0/8", "10.0.0.0/8"),
        (values.parse_ipv4_network, "192.168.077.8/29", "192.168.77.8/29"),
        (values.parse_cpu_set, "3,0-1, 8191", "0-1,3,8191"),
    ],
)
def test_read_and_spelled(parse: Callable[[str], Any], text: str, expected: str) -> None:
    assert str(parse(text)) == expected


@pytest.mark.parametrize(
    ("parse", "texts"),
    [
        (values.parse_pci_address, ["", "3:0.0", "03:20.0", "03:00.8", "03:00", "x03:00.0",
                                    "03:00.0\n0", "0३:00.0"]),
        (values.parse_pci_id, ["", "10de", "10de:12", "10de:1200:1", "10dg:1200"]),
        (values.parse_pci_selector, ["", "gpu", "03:00"]),
        (values.parse_guest_slot, ["", "20", "1c.8", "1c.", "-1", "05.0.0"]),
        (values.parse_size, ["", "8", "8 G", "8g", "-1G", "1.5G", "8GB8", "9" * 13 + "G", "²G"]),
        (values.parse_duration, ["", "60", "s", "-1s", "1e3s", "1d", "9" * 400 + "s", ".5s"]),
        (values.parse_mac, ["", "52:54:00:26:7f", "53:54:00:26:7f:96", "00:00:00:00:00:00",
                            "52-54-00-26-7f-96", "ff:ff:ff:ff:ff:ff"]),
        (values.parse_vm_name, ["", ".", "..", "a/b", "-a", " a", "a ", "a\n", "a,b", "x" * 64,
                                "é", "a=b"]),
        (values.parse_ipv4_network, ["", "10.0.0.0", "10.0.0.1/24", "10.0.0.0/30", "0.0.0.0/0",
                                     "256.0.0.0/8", "10.0.0/8", "10.0.0.0/8 10.0.0.0/8",
                                     "fd00::/8"]),
        (values.parse_cpu_set, ["", ",", "1,", "3-1", "8192", "0-99999", "-1", "1 2", "1-", "a",
                                "9" * 5000]),
    ],
)
def test_refused_in_words(parse: Callable[[str], Any], texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(ValueError, match=r"^(a|an) [a-zA-Z ]+") as caught:
            parse(text)
        assert "int()" not in str(caught.value)
        assert "limit" not in str(caught.value)


def test_parts() -> None:
    address = PciAddress("0000:03:00.1")
    assert (address.function, address.slot_name, address.short) == (1, "0000:03:00", "03:00.1")
    assert PciAddress("10000:03:00.1").short == "10000:03:00.1"
    assert PciSelector("0000:03:00.1").address == address
    assert PciSelector("0000:03:00.1").id is None
    assert PciSelector("10de:1200").id == "10de:1200"
    assert PciSelector("10de:1200").address is None
    assert (GuestSlot("1c.3").slot, GuestSlot("1c.3").function) == (0x1C, 3)


def test_networks_and_their_addresses() -> None:
    network = values.Ipv4Network("192.168.77.0/24")
    assert (network.address(1), network.address(-1)) == ("192.168.77.1", "192.168.77.255")
    assert network.overlaps(values.Ipv4Network("192.168.0.0/16"))
    assert values.Ipv4Network("192.168.77.128/25").overlaps(network)
    assert not network.overlaps(values.Ipv4Network("192.168.76.0/24"))
    assert values.ipv4_number("1.2.3.4") == 0x01020304
    assert {values.ipv4_number(t) for t in ("", "1.2.3", "1.2.3.256", "1.2.3.4444", "a.b.c.d")} == {
        -1
    }


@pytest.mark.parametrize("raw", [True, -1, 8192, 1.0, [True], [-1], ["1"], [8192], [None]])
def test_cpu_numbers_are_numbers(raw: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode_value(CpuSet, raw)


@pytest.mark.parametrize("raw", [5, "5", [5], [5, 5]])
def test_cpu_sets_in_a_profile(raw: object) -> None:
    assert decode_value(CpuSet, raw) == CpuSet([5])


VALUES: dict[type, st.SearchStrategy[Any]] = {
    values.PciAddress: st.builds(
        "{:04x}:{:02x}:{:02x}.{}".format, st.integers(0, 0xFFFFFFFF), st.integers(0, 255),
        st.integers(0, 31), st.integers(0, 7),
    ).map(PciAddress),
    values.GuestSlot: st.builds("{:02x}.{}".format, st.integers(0, 31), st.integers(0, 7)).map(
        GuestSlot
    ),
    values.Size: st.builds(
        lambda count, shift: Size(count << shift), st.integers(0, 10**6), st.integers(0, 40)
    ),
    values.Duration: st.integers(0, 10**15).map(lambda n: Duration(round(n / 10**6, 6))),
    values.CpuSet: st.lists(st.integers(0, 8191), min_size=1, max_size=50).map(CpuSet),
    values.Ipv4Network: st.builds(
        lambda number, bits: values.Ipv4Network(
            f"{values.ipv4_text(number >> 32 - bits << 32 - bits)}/{bits}"
        ), st.integers(0, 2**32 - 1), st.integers(8, 29),
    ),
    values.MacAddress: st.binary(min_size=5, max_size=5).map(
        lambda tail: values.MacAddress("52:" + tail.hex(":"))
    ),
}


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_str_is_read_back(kind: type) -> None:
    @given(VALUES[kind])
    def check(value: object) -> None:
        read = PARSERS[kind](str(value))
        assert read == value
        assert type(read) is kind
        again = from_json(to_json(value), kind)
        assert again == value
        assert type(again) is kind

    check()


def test_an_empty_cpu_set_crosses_json() -> None:
    assert from_json(to_json(CpuSet()), CpuSet) == CpuSet()


def test_json_refuses_what_is_no_value() -> None:
    with pytest.raises(msgspec.ValidationError):
        from_json(b"5", Size)

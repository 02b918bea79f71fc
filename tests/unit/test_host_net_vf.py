"""MAC addresses and VLANs of virtual functions as netlink messages, encoded and decoded by pyroute2
itself: no machine here has a network card with virtual functions."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.requests.link import LinkIPRouteFilter

from qlaunch.errors import HostError
from qlaunch.host import net
from qlaunch.host.net import Links


class Card:
    """Stands in for IPRoute: one link, two virtual functions; `stubborn` takes no VLAN, `refused`
    are the error numbers that it says first."""

    def __init__(self, *, stubborn: bool = False, refused: tuple[int, ...] = ()) -> None:
        self.refused = list(refused)
        self.functions = [{"mac": f"52:54:00:00:00:0{n}", "vlan": 5 * n} for n in (1, 2)]
        self.stubborn = stubborn
        self.asked: list[dict[str, Any]] = []

    def link_lookup(self, ifname: str) -> list[int]:
        return [3] if ifname == "eno1" else []

    def get_links(self, index: int) -> list[dict[str, int]]:
        return [{"index": index}]

    def link(self, command: str, **arguments: Any) -> list[Any]:
        assert arguments.pop("index") == 3
        if command == "get":
            assert arguments == {"ext_mask": 1}
            return [decoded(self._listed())]
        if self.refused:
            raise NetlinkError(self.refused.pop(0))
        [vf] = arguments.values()
        message = decoded(LinkIPRouteFilter("set").set_vf({}, dict(vf))["IFLA_VFINFO_LIST"])
        for one in message.get_attr("IFLA_VFINFO_LIST").get_attrs("IFLA_VF_INFO"):
            for key in ("mac", "vlan"):
                said = one.get_attr(f"IFLA_VF_{key.upper()}")
                if said and not (key == "vlan" and self.stubborn):
                    self.functions[said["vf"]][key] = said[key]
        return []

    def _listed(self) -> dict[str, Any]:
        return {"attrs": [
            ("IFLA_VF_INFO", {"attrs": [
                ("IFLA_VF_MAC", {"vf": n, "mac": f["mac"]}),
                ("IFLA_VF_VLAN", {"vf": n, "vlan": f["vlan"], "qos": 0}),
            ]}) for n, f in enumerate(self.functions)
        ]}


def decoded(listed: dict[str, Any]) -> Any:
    """What the other end of the socket sees."""
    message = ifinfmsg()
    message["attrs"] = [("IFLA_VFINFO_LIST", listed)]
    message.encode()
    received = ifinfmsg(message.data)
    received.decode()
    return received


def test_read_and_set() -> None:
    card, links = Card(), Links()
    assert links._vf(card, "eno1", 1) == {"mac": "52:54:00:00:00:02", "vlan": 10}
    links._set_vf(card, "eno1", 1, "52:54:00:00:00:07", 12)
    assert card.functions == [
        {"mac": "52:54:00:00:00:01", "vlan": 5}, {"mac": "52:54:00:00:00:07", "vlan": 12},
    ]
    links._set_vf(card, "eno1", 0, None, 0)
    assert card.functions[0] == {"mac": "52:54:00:00:00:01", "vlan": 0}


def test_what_there_is_not() -> None:
    with pytest.raises(HostError, match="no virtual function 7"):
        Links()._vf(Card(), "eno1", 7)
    with pytest.raises(HostError, match="no virtual function 0"):
        Links()._vf(Card(), "eno9", 0)
    with pytest.raises(HostError, match="the link is gone"):
        Links()._set_vf(Card(), "eno9", 0, None, 3)


def test_a_driver_that_says_yes_and_does_nothing() -> None:
    with pytest.raises(HostError, match="did not take it"):
        Links()._set_vf(Card(stubborn=True), "eno1", 0, None, 3)


def test_a_function_that_is_being_reset_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one is that its host driver has just let go of."""
    card = Card(refused=(errno.EAGAIN, errno.EBUSY))
    Links()._set_vf(card, "eno1", 0, None, 3)
    assert card.functions[0]["vlan"] == 3
    monkeypatch.setattr(net, "RESET_TIME", 0.0)
    for refused in ((errno.EAGAIN,) * 99, (errno.EINVAL,)):
        with pytest.raises(NetlinkError):
            Links()._set_vf(Card(refused=refused), "eno1", 0, None, 3)

"""Network cards and their backends."""

from __future__ import annotations

from qlaunch.argv.option import Option, Value, device, option, place
from qlaunch.plan.model import Plan, PlannedNic
from qlaunch.profile.network import UserNet


def net_options(plan: Plan) -> list[Option]:
    """A backend and a card for each network."""
    options = []
    for nic in plan.nics:
        options += [_netdev(plan, nic), _nic(plan, nic)]
    return options


def _netdev(plan: Plan, nic: PlannedNic) -> Option:
    name = f"hostnet{nic.index}"
    table = plan.profile.net[nic.index]
    if nic.kind == "user":
        return Option("-netdev", tuple(_user(name, table.user)), f"net[{nic.index}].user")
    if nic.kind == "stream":
        # not the shorter -netdev passt of QEMU 10.1: this is the same in all since 7.2
        return Option("-netdev", (
            ("", "stream"), ("id", name), ("server", False), ("addr.type", "fd"),
            ("addr.str", str(nic.stream_fd)),
        ), f"net[{nic.index}].passt")
    many = nic.queues > 1
    ends = [k for k in ("bridge", "tap", "macvtap", "nat") if getattr(table, k) is not None]
    fds = ":".join(str(f) for f in nic.tap_fds)
    vhost = ":".join(str(f) for f in nic.vhost_fds)
    return option(
        "-netdev", "tap", id=name,
        why=f"net[{nic.index}].{ends[0]}" + ("; rule: vhost-net is there" if vhost else ""),
        **{"fds" if many else "fd": fds}, vhost=True if vhost else None,
        **({"vhostfds" if many else "vhostfd": vhost} if vhost else {}),
    )


def _user(name: str, table: UserNet | None) -> list[tuple[str, Value]]:
    pairs: list[tuple[str, Value]] = [("", "user"), ("id", name)]
    if table is None:
        return pairs
    pairs += [("restrict", True)] * table.restrict
    for key in ("net", "hostname", "domainname", "dns", "tftp", "bootfile"):
        value = getattr(table, key)
        pairs += [(key, value)] if value else []
    pairs += [("dnssearch", domain) for domain in table.dnssearch]
    pairs += [("hostfwd", _forward(f)) for f in table.forward]
    return pairs


def _forward(text: str) -> str:
    """`tcp:2222:22` or `tcp:127.0.0.1:2222:22` → QEMU's `tcp:ADDR:2222-:22`."""
    protocol, *address, port, guest = text.split(":")
    return f"{protocol}:{address[0] if address else ''}:{port}-:{guest}"


def _nic(plan: Plan, nic: PlannedNic) -> Option:
    table = plan.profile.net[nic.index]
    virtio = table.model == "virtio"
    many = nic.queues > 1 and virtio
    card = device(
        nic.model, f"{nic.why}; {nic.mac_why}", **place(nic.place.bus, nic.place.addr),
        netdev=f"hostnet{nic.index}", mac=nic.mac, id=f"net{nic.index}", mq=True if many else None,
        vectors=2 * nic.queues + 2 if many else None, romfile=None if table.rom else "",
        bootindex=table.boot,
    )
    sizes = {"host_mtu": table.mtu if virtio else None, "rx_queue_size": table.rx_queue_size}
    more = tuple((key, size) for key, size in sizes.items() if size is not None)
    return Option(card.flag, (*card.args, *more), card.why)

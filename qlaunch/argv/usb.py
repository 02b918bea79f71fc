"""The USB controller, and host devices behind it."""

from __future__ import annotations

from qlaunch.argv.option import Option, Value, device, option, place
from qlaunch.plan.model import Plan
from qlaunch.plan.plugs import PlannedUsb
from qlaunch.plan.usb import COMPANIONS
from qlaunch.plan.usbports import BUS

_XHCI_PORTS = 15  # the most there are


def controller_options(plan: Plan) -> list[Option]:
    """The controller; EHCI before the companions that name its bus; the hub."""
    bus = plan.usb_bus
    if bus is None:
        return []
    where = plan.places["usb"]
    ports = _XHCI_PORTS if bus.model == "xhci" else None
    options = [device(bus.device, bus.why, id="usb", p2=ports, p3=ports,
                      **place(where.bus, where.addr))]
    if bus.model == "ehci":
        options += [
            device(
                f"ich9-usb-uhci{n}", f"{bus.why}; rule: EHCI takes fast devices only", id=name,
                masterbus=BUS, firstport=first, multifunction=True if n == 1 else None,
                **place(plan.places[name].bus, plan.places[name].addr),
            )
            for n, (name, first) in enumerate(COMPANIONS, 1)
        ]
    if bus.hub:
        options.append(device("usb-hub", bus.hub_why, id="usb-hub", bus=BUS, port=bus.hub))
    return options


def usb_options(plan: Plan) -> list[Option]:
    """The [[usb]] tables."""
    options = []
    for usb in plan.usbs:
        if usb.redirect:
            options += [
                option("-chardev", "spicevmc", why=usb.key, id=f"{usb.id}-viewer",
                       name="usbredir"),
                device("usb-redir", usb.key, id=usb.id, **_port(usb), bootindex=usb.boot,
                       chardev=f"{usb.id}-viewer"),
            ]
            continue
        if usb.fd is not None:
            options.append(option("-add-fd", why="rule: QEMU's account cannot open the device",
                                  fd=usb.fd, set=usb.fd, opaque=usb.node))
        if usb.node or usb.sought:
            options.append(host_option(usb))
    return options


def host_option(usb: PlannedUsb) -> Option:
    """Its `-device` option."""
    node = usb.node if usb.fd is None else f"/dev/fdset/{usb.fd}"
    pairs = host_device(usb, node) if node else {**host_device(usb, ""), **_selectors(usb)}
    return Option("-device", (("", "usb-host"), *pairs.items()), usb.key)


def host_device(usb: PlannedUsb, node: str) -> dict[str, Value]:
    """The properties of a usb-host device over a node (a path or /dev/fdset/N)."""
    pairs: dict[str, Value] = {"id": usb.id, **_port(usb)}
    if node:
        pairs["hostdevice"] = node
    if usb.boot is not None:
        pairs["bootindex"] = usb.boot
    return pairs


def _port(usb: PlannedUsb) -> dict[str, Value]:
    """The same whenever it is plugged in."""
    return {"bus": BUS, "port": usb.place.port} if usb.place and usb.place.port else {"bus": BUS}


def _selectors(usb: PlannedUsb) -> dict[str, Value]:
    """QEMU's own search, for a device that is not there or that nobody looked for."""
    pairs: dict[str, Value] = {}
    if usb.ident:
        vendor, product = usb.ident.split(":")
        pairs |= {"vendorid": f"0x{vendor}", "productid": f"0x{product}"}
    if usb.name:
        bus, _, port = usb.name.partition("-")
        pairs |= {"hostbus": int(bus), "hostport": port}
    return pairs

"""Network cards and what they are connected to."""

from __future__ import annotations

from typing import Literal

from qlaunch.profile.fields import BootIndex, LinkName, Slot
from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import HostPath, Ipv4Network, MacAddress

Forwards = Annotated[
    tuple[
        Annotated[
            str,
            Meta(
                pattern=r"^(tcp|udp):([0-9.]+:)?[0-9]+:[0-9]+$",
                extra={"form": "a forward like tcp:2222:22 or tcp:127.0.0.1:2222:22"},
            ),
        ],
        ...,
    ],
    Meta(description='Ports from host to guest: "tcp:2222:22" or "tcp:127.0.0.1:2222:22".'),
]
Ipv4 = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,3}(\.[0-9]{1,3}){3}$", extra={"form": "an IPv4 address like 10.0.2.3"}
    ),
]
_HostName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9-]{1,63}$",
        extra={"form": "a host name of letters, digits and -, at most 63"},
    ),
]
_Domain = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,20}$",
        extra={"form": "a domain like home.arpa"},
    ),
]
_DomainName = Annotated[
    _Domain | None, Meta(description='The guest\'s domain, given by DHCP: "home.arpa".')
]


class UserNet(Table, frozen=True):
    """QEMU's user-mode network: no privileges, NAT behind the host."""

    forward: Forwards = ()
    restrict: Annotated[
        bool, Meta(description="Cut the guest off from everything outside.")
    ] = False
    hostname: Annotated[_HostName | None, Meta(description="Name given by DHCP.")] = None
    domainname: _DomainName = None
    dnssearch: Annotated[
        tuple[_Domain, ...], Meta(description="Domains in which the guest looks names up.")
    ] = ()
    dns: Annotated[
        Ipv4 | None,
        Meta(
            description="Address at which the guest sees its name server, inside `net`; what is "
            "asked there is asked of the host's. The third of the network when absent."
        ),
    ] = None
    net: Annotated[
        Ipv4Network | None,
        Meta(description='The network that the guest sees; "10.0.2.0/24" when absent.'),
    ] = None
    tftp: Annotated[
        HostPath | None,
        Meta(description="Directory that the guest may read by TFTP, to boot from the network."),
    ] = None
    bootfile: Annotated[
        Annotated[
            str, Meta(pattern=r"^[!-~]{1,127}$", extra={"form": "a file's name without blanks"})
        ] | None,
        Meta(description='File below `tftp` that the guest boots: "pxelinux.0".'),
    ] = None


class PasstNet(Table, frozen=True):
    """Networking by passt: no privileges, and the guest has the host's own addresses."""

    forward: Forwards = ()
    dns: Annotated[
        tuple[Ipv4, ...],
        Meta(description="Name servers for the guest; the host's when absent."),
    ] = ()


class NatNet(Table, frozen=True):
    """A network of the guest's own behind the host, made for the run. It goes where the host
    goes, wireless too."""

    net: Annotated[
        Ipv4Network | None,
        Meta(
            description='Its addresses, "192.168.77.0/24": the first is the host\'s, the second '
            "the guest's. One that nothing on the host uses when absent."
        ),
    ] = None
    forward: Annotated[
        Forwards,
        Meta(
            description='Ports from host to guest, for who comes from outside: "tcp:2222:22". '
            "The host itself reaches the guest by its address."
        ),
    ] = ()
    dns: Annotated[
        tuple[Ipv4, ...],
        Meta(description="Name servers that are asked for the guest; the host's when absent."),
    ] = ()
    domainname: _DomainName = None


class Net(Table, frozen=True):
    """A network card and what it is connected to: one of `bridge`, `tap`, `macvtap`, `nat`,
    `passt` or `user`."""

    bridge: Annotated[
        LinkName | None, Meta(description="Connect to this bridge by a tap of our own.")
    ] = None
    make_bridge: Annotated[
        bool, Meta(description="Make the bridge when it is missing, and remove it at exit.")
    ] = False
    tap: Annotated[
        LinkName | None,
        Meta(description="With `bridge`: our tap's name. Alone: an existing persistent tap."),
    ] = None
    macvtap: Annotated[
        LinkName | None,
        Meta(
            description='Share this link of the host, "eth0", without a bridge: the guest is on '
            "its network, but host and guest do not hear each other."
        ),
    ] = None
    mode: Annotated[
        Literal["bridge", "private", "vepa", "passthru"] | None,
        Meta(
            description="How machines on the same `macvtap` link see each other: directly "
            "(bridge, the default), not at all (private), through the switch (vepa); passthru "
            "gives the link to this machine alone, MAC address and all."
        ),
    ] = None
    nat: Annotated[
        NatNet | None,
        Meta(description="A network behind the host, with DHCP, names and masquerading."),
    ] = None
    passt: Annotated[
        PasstNet | None, Meta(description="Networking by passt, faster than user-mode.")
    ] = None
    user: Annotated[UserNet | None, Meta(description="User-mode networking.")] = None
    mac: Annotated[
        MacAddress | None, Meta(description="MAC address; derived from the uuid when absent.")
    ] = None
    model: Annotated[
        Literal["virtio", "e1000e", "e1000", "rtl8139", "vmxnet3"],
        Meta(description="The card the guest sees."),
    ] = "virtio"
    queues: Annotated[
        Annotated[int, Meta(ge=1, le=64)],
        Meta(description="Queue pairs (virtio on a tap or macvtap)."),
    ] = 1
    vhost: Annotated[
        bool | None, Meta(description="Use the kernel's vhost-net; on where it is there.")
    ] = None
    mtu: Annotated[
        Annotated[int, Meta(ge=68, le=65521)] | None,
        Meta(
            description="Largest packet in bytes, 9000 say: told to a virtio card, and set on the "
            "links that are made for it."
        ),
    ] = None
    rx_queue_size: Annotated[
        Literal[256, 512, 1024] | None,
        Meta(description="Places in each receive queue of a virtio card; QEMU's 256 when absent."),
    ] = None
    rom: Annotated[
        bool, Meta(description="Have the boot ROM of the card; without it there is no PXE.")
    ] = True
    boot: BootIndex = None
    addr: Slot = None

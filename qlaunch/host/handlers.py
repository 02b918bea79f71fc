"""Which handler carries out which step: the one list. None is loaded before its first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qlaunch.host.handler import Captured, Handler, Host
from qlaunch.late import load
from qlaunch.plan import cpu_steps, steps

Handlers = Mapping[type, Handler[Any]]


class _Late:
    """A handler whose module is imported when the first step of its kind comes."""

    def __init__(self, target: str) -> None:
        self._target = target

    def _handler(self) -> Handler[Any]:
        handler: Handler[Any] = load(self._target)()
        return handler

    def capture(self, host: Host, step: Any) -> Captured:
        return self._handler().capture(host, step)

    def apply(self, host: Host, step: Any, captured: Captured) -> None:
        self._handler().apply(host, step, captured)

    def undo(self, host: Host, step: Any, captured: Captured) -> str | None:
        return self._handler().undo(host, step, captured)


HANDLERS: Handlers = {
    steps.LoadModule: _Late("qlaunch.host.modules:LoadModuleHandler"),
    steps.CreateMdev: _Late("qlaunch.host.vgpu:CreateMdevHandler"),
    steps.OwnDeviceGroup: _Late("qlaunch.host.vgpu:OwnDeviceGroupHandler"),
    steps.EnableVfs: _Late("qlaunch.host.sriov:EnableVfsHandler"),
    steps.SetVfNet: _Late("qlaunch.host.sriov:SetVfNetHandler"),
    steps.SetVgpuType: _Late("qlaunch.host.nvidia:SetVgpuTypeHandler"),
    steps.TakeDevice: _Late("qlaunch.host.pci:TakeDeviceHandler"),
    steps.ResetDevices: _Late("qlaunch.host.reset:ResetDevicesHandler"),
    steps.HoldPower: _Late("qlaunch.host.power:HoldPowerHandler"),
    steps.OwnNode: _Late("qlaunch.host.nodes:OwnNodeHandler"),
    steps.OwnGroup: _Late("qlaunch.host.nodes:OwnGroupHandler"),
    steps.MakeBridge: _Late("qlaunch.host.net:MakeBridgeHandler"),
    steps.MakeMacvtap: _Late("qlaunch.host.macvtap:MakeMacvtapHandler"),
    steps.SetForwarding: _Late("qlaunch.host.nat:SetForwardingHandler"),
    steps.NftTable: _Late("qlaunch.host.nat:NftTableHandler"),
    steps.RunDnsmasq: _Late("qlaunch.host.nat:RunDnsmasqHandler"),
    steps.ReserveHugePages: _Late("qlaunch.host.memory:ReserveHugePagesHandler"),
    steps.MakeShared: _Late("qlaunch.host.shared:MakeSharedHandler"),
    steps.LendUsb: _Late("qlaunch.host.usb:LendUsbHandler"),
    cpu_steps.IsolateCpus: _Late("qlaunch.host.cpuset:IsolateCpusHandler"),
    cpu_steps.MoveIrqs: _Late("qlaunch.host.irqs:MoveIrqsHandler"),
    cpu_steps.SetGovernor: _Late("qlaunch.host.governor:SetGovernorHandler"),
    steps.MakeCgroup: _Late("qlaunch.host.cgroup:MakeCgroupHandler"),
}

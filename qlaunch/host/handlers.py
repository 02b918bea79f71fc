"""Which handler carries out which step: the one list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qlaunch.host.handler import Handler
from qlaunch.host.memory import ReserveHugePagesHandler
from qlaunch.host.modules import LoadModuleHandler
from qlaunch.host.net import MakeBridgeHandler
from qlaunch.host.nodes import OwnGroupHandler, OwnNodeHandler
from qlaunch.host.pci import HoldPowerHandler, TakeDeviceHandler
from qlaunch.host.reset import ResetDevicesHandler
from qlaunch.plan import steps

Handlers = Mapping[type, Handler[Any]]

HANDLERS: Handlers = {
    steps.LoadModule: LoadModuleHandler(),
    steps.TakeDevice: TakeDeviceHandler(),
    steps.ResetDevices: ResetDevicesHandler(),
    steps.HoldPower: HoldPowerHandler(),
    steps.OwnNode: OwnNodeHandler(),
    steps.OwnGroup: OwnGroupHandler(),
    steps.MakeBridge: MakeBridgeHandler(),
    steps.ReserveHugePages: ReserveHugePagesHandler(),
}

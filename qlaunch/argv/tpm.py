"""The TPM and the socket to its swtpm."""

from __future__ import annotations

from qlaunch.argv.option import Option, device, option
from qlaunch.plan.model import Plan
from qlaunch.plan.tpm import tpm_device


def tpm_options(plan: Plan) -> list[Option]:
    """Socket, backend, device."""
    tpm = plan.profile.tpm
    if tpm is None:
        return []
    why = "tpm.model" if tpm.model else f"rule: the interface of a TPM {tpm.version}"
    return [
        option("-chardev", "socket", why="tpm", id="tpm0-swtpm", fd=plan.fd("helper", "tpm0")),
        option("-tpmdev", "emulator", why="tpm.version", id="tpm0-backend", chardev="tpm0-swtpm"),
        device(tpm_device(tpm.version, tpm.model), why, id="tpm0", tpmdev="tpm0-backend"),
    ]

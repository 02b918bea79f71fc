"""The TPM: which interface, and the swtpm that serves it.

swtpm has one end of a connected socket as its control channel; over that QEMU hands it the channel
for commands (tpm_emulator_prepare_data_fd, backends/tpm/tpm_emulator.c). An empty state directory
becomes a newly manufactured TPM.
"""

from __future__ import annotations

from qlaunch.plan.draft import Draft
from qlaunch.plan.model import PlannedHelper

STATES = {"2.0": "tpm2", "1.2": "tpm12"}
_CONTROL, _STATE = 3, 4  # swtpm's fds


def tpm_device(version: str, model: str | None) -> str:
    """QEMU's device type."""
    return f"tpm-{model or ('crb' if version == '2.0' else 'tis')}"


def plan_tpm(draft: Draft) -> None:
    """One swtpm, as QEMU's account, with a state directory of the machine's."""
    tpm = draft.profile.tpm
    if tpm is None:
        return
    swtpm = draft.program("swtpm", "tpm", "swtpm (Debian, Fedora, Arch, openSUSE)")
    state = f"{draft.paths.state}/{STATES[tpm.version]}"
    # /var/lib/qlaunch is root's alone, and a comma ends swtpm's dir=: then it gets it open.
    own = draft.account is None or not state.startswith("/var/lib/qlaunch/")
    own = own and "," not in state
    draft.helper(
        PlannedHelper(
            id="tpm0", key="tpm", inner_fd=_CONTROL, directories=(state,),
            files=() if own else ((_STATE, state, False),),
            argv=(
                swtpm, "socket",
                "--tpmstate", f"dir={state if own else f'/proc/self/fd/{_STATE}'},mode=0600",
                "--ctrl", f"type=unixio,clientfd={_CONTROL}", "--terminate",
                *(("--tpm2",) if tpm.version == "2.0" else ()),
            ),
            why="tpm",
        )
    )
    draft.need(tpm_device(tpm.version, tpm.model), "tpm.model")

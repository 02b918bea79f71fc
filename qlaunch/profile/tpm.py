"""An emulated TPM."""

from __future__ import annotations

from typing import Literal

from qlaunch.profile.table import Annotated, Meta, Table


class Tpm(Table, frozen=True):
    """A TPM for the guest, emulated by swtpm; its state is kept beside the machine's log."""

    version: Annotated[
        Literal["2.0", "1.2"],
        Meta(description='TPM specification; Windows 11 needs "2.0". Each version has a state of '
             "its own."),
    ] = "2.0"
    model: Annotated[
        Literal["crb", "tis"] | None,
        Meta(description='Interface that the guest sees; when absent "crb" for 2.0 and "tis" for '
             "1.2, which knows no other."),
    ] = None

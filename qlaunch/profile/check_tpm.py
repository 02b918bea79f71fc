"""Rules about the TPM."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile


def check_tpm(profile: Profile) -> Iterator[Finding]:
    """The command response buffer came with TPM 2.0; Windows 11 takes nothing older."""
    tpm = profile.tpm
    if tpm is None or tpm.version == "2.0":
        return
    if tpm.model == "crb":
        yield Finding(
            ("tpm", "model"),
            Problem("a TPM 1.2 has no such interface", found='model = "crb"', allowed='"tis"',
                    hint='leave model out, or use version = "2.0"'),
            also=(("tpm", "version"),),
        )
    if profile.guest == "windows11":
        yield Finding(
            ("tpm", "version"),
            Problem("Windows 11 needs a TPM 2.0", found='version = "1.2"',
                    hint="leave version out", severity="warning"),
            also=(("guest",),),
        )


TPM_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (check_tpm,)

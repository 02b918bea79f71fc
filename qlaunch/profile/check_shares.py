"""Rules about shared directories."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.keys import key_text, quote
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile
from qlaunch.profile.shares import Share

# Keys that only one of the types has, with the value that means nothing was asked for.
ONLY = {
    "cache": ("virtiofs", None), "xattr": ("virtiofs", False),
    "sandbox": ("virtiofs", "namespace"), "security_model": ("9p", None),
}


def check_tags(profile: Profile) -> Iterator[Finding]:
    """The guest tells shares apart by their tags."""
    seen: dict[str, str] = {}
    for number, share in enumerate(profile.share):
        here = key_text(("share", number))
        first = seen.setdefault(share.tag, here)
        if first != here:
            yield Finding(
                ("share", number, "tag"),
                Problem(f"{first} has the same tag", found=quote(share.tag),
                        hint="give each share a tag of its own"),
            )


def check_keys(profile: Profile) -> Iterator[Finding]:
    """What a share asks for is there for its type."""
    for number, share in enumerate(profile.share):
        for key, (kind, nothing) in ONLY.items():
            value = getattr(share, key)
            if share.type != kind and value != nothing:
                text = quote(value) if isinstance(value, str) else str(value).lower()
                yield Finding(
                    ("share", number, key),
                    Problem(f"only {kind} has this", found=f"{key} = {text}",
                            hint=f'drop it, or use type = "{kind}"'),
                    also=(("share", number, "type"),),
                )


def check_guest(profile: Profile) -> Iterator[Finding]:
    """Windows has a driver for virtiofs from 10 on, and none for 9p."""
    for number, share in enumerate(profile.share):
        if lacks := _lacks(profile.guest, share):
            message, hint = lacks
            yield Finding(
                ("share", number, "type"),
                Problem(message, found=f'type = "{share.type}"', hint=hint, severity="warning"),
                also=(("guest",),),
            )


def _lacks(guest: str, share: Share) -> tuple[str, str] | None:
    if guest == "windows7":
        return "Windows 7 has no driver for it", "share over the network, with Samba"
    if guest in ("windows10", "windows11") and share.type == "9p":
        return "Windows has no driver for 9p", 'use type = "virtiofs", with virtio-win and WinFsp'
    return None


SHARE_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_tags, check_keys, check_guest,
)

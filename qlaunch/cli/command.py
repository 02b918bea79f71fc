"""How a command of ours that a hint or a fix names is typed here.

Rooms that advise write `qlaunch VERB …`, with `sudo` where only root sees enough; verbs that change
the host ask for root themselves (`elevate.py`). Two things are known only at the end: that sudo
looks where qlaunch is not, and that whoever reads this sits at another machine (`qlaunch on`).
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from shlex import join, quote, split

# What every distribution's sudoers has in secure_path: RHEL's has no /usr/local, and none has a
# virtual environment or ~/.local/bin.
SECURE = "/usr/sbin:/usr/bin:/sbin:/bin"
HERE_ONLY = ("on", "desktop")  # about the machine that one sits at
# What systemd-run starts is started over there, as it stands.
_OURS = re.compile(r"(?<!--scope )(sudo |as root: )?\bqlaunch ([a-z]+\b|…)")


def typed(text: str) -> str:
    """The text, with our commands as they work for who reads it."""
    via = os.environ.get("QLAUNCH_VIA", "")  # by remote/script.py: what follows `qlaunch on`
    sent = os.environ.get("QLAUNCH_ON", "")
    if via and sent:
        text = re.sub(re.escape(sent) + r"/[^/]*\.sent/\d+/", "", text)  # profile/sent.py's files
        text = re.sub(re.escape(sent) + r"/([^/]*)\.sent", r"\1.toml", text)

    def one(match: re.Match[str]) -> str:
        return _typed(match, via)

    return _OURS.sub(one, text)


def _typed(match: re.Match[str], via: str) -> str:
    from qlaunch.cli.main import VERBS

    root, verb = match[1] or "", match[2]
    if verb not in VERBS and not (root and verb == "…"):
        return match[0]
    if root:
        there = f"{_as_root(root, via)}{own_command()}"
        return f"{there} {verb}"
    return match[0] if not via or verb in HERE_ONLY else f"qlaunch on {via} {verb}"


def _as_root(root: str, via: str) -> str:
    if not via:
        return root
    words = split(via)
    while "--remote-command" in words:
        at = words.index("--remote-command")
        del words[at : at + 2]
    return f"ssh -t {join(words)} sudo "


def own_command() -> str:
    """This qlaunch, as sudo and root's shell find it."""
    import shutil

    program = _program()
    if program is None:
        return f"{quote(sys.executable)} -m qlaunch"
    found = shutil.which("qlaunch", path=SECURE)
    return "qlaunch" if found and program.samefile(found) else quote(str(program))


def _program() -> Path | None:
    """The script that was started, or the one beside our interpreter."""
    started = Path(os.path.abspath(sys.argv[0]))  # noqa: PTH100 - no link is followed
    for path in (started, Path(sys.executable).parent / "qlaunch"):
        if path.name == "qlaunch" and path.is_file() and os.access(path, os.X_OK):
            return path
    return None

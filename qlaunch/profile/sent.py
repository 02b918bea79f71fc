"""A profile and all that it extends in one file, for another machine to read (`qlaunch on HOST`).

The file, NAME.sent, is JSON: the texts, the profile first, and of each which text is meant by a
name in its `extends`. There, relative paths start from the directory that the command runs in,
and a base is taken to be where the profile's words put it: paths in `extends = "cards/hd.toml"`
are relative to `cards/`, and `~` and ${ENV} are that machine's.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from msgspec import DecodeError, Struct, field

from qlaunch.codec import from_json, to_json
from qlaunch.errors import Problem, ProfileError
from qlaunch.profile.files import LIMIT, shown
from qlaunch.profile.layers import Collector, Layer

if TYPE_CHECKING:
    from collections.abc import Callable

SUFFIX = ".sent"
VERSION = 1


class SentFile(Struct, frozen=True):
    """One file: its name, its text, and the number of the file that each of its bases is."""

    name: str
    text: str
    bases: dict[str, int] = field(default_factory=dict)


class Sent(Struct, frozen=True):
    """The profile is the first of `files`."""

    files: tuple[SentFile, ...]
    version: int = VERSION


def pack(path: Path, load: Callable[[Path], Layer], expand: Callable[[str, Layer], str]) -> bytes:
    """The file to send. Raises ProfileError with every file that cannot be read.

    `load` and `expand` are the reader's; nothing but TOML and `extends` is looked at, because the
    rest is for the machine that will run it to judge.
    """
    asked: list[tuple[tuple[int, int], str, str]] = []
    found: dict[str, tuple[int, int]] = {}

    def loaded(file: Path) -> Layer:
        layer = load(file)
        found[str(file)] = layer.identity
        return layer

    def expanded(text: str, layer: Layer) -> str:
        at = expand(text, layer)
        asked.append((layer.identity, text, at))
        return at

    collector = Collector(loaded, expanded)
    collector.collect(path)
    if collector.problems:
        raise ProfileError(collector.problems)
    layers = collector.layers[::-1]  # the profile is merged last
    numbers = {layer.identity: number for number, layer in enumerate(layers)}
    bases: list[dict[str, int]] = [{} for _ in layers]
    for identity, text, at in asked:
        bases[numbers[identity]][text] = numbers[found[str(Path(at))]]
    files = zip(layers, bases, strict=True)
    raw = to_json(Sent(tuple(SentFile(one.path.name, one.text, names) for one, names in files)))
    if len(raw) > LIMIT:
        raise ProfileError(Problem("larger than 1 MiB with all that it extends, which no profile "
                                   "is", where=shown(path), hint="ls -lL shows its size"))
    return raw


class Unpacked:
    """The two things that the reader wants of a file that was sent: `load` and `expand`.

    `parse` reads TOML. `directory` is where the profile's relative paths start from.
    """

    def __init__(
        self, outer: Layer, parse: Callable[[str, str], dict[str, object]], directory: Path,
        expand_path: Callable[[str, Path], str],
    ) -> None:
        self._outer = outer
        self._parse = parse
        self._expand_path = expand_path
        self._sent = _decode(outer)
        self._directories: dict[Path, Path] = {self._path(0): directory}
        self._numbers = {self._path(number): number for number in range(len(self._sent.files))}

    def load(self, path: Path) -> Layer:
        """The file that `expand` has named; any other path is the profile itself."""
        number = self._numbers.get(path, 0)
        path = self._path(number)
        file = self._sent.files[number]
        tree = self._parse(file.text, shown(path.name))
        return Layer(path, file.text, tree, (-1, number), self._outer.root_only,
                     self._directories[path])

    def expand(self, text: str, layer: Layer) -> str:
        """The path of a base. Raises ValueError for a variable that is not set here."""
        number = self._sent.files[self._numbers[layer.path]].bases.get(text)
        if number is None:
            raise ValueError("this base was not sent")
        at = PurePath(self._expand_path(text, layer.directory))
        self._directories.setdefault(self._path(number), Path(at.parent))
        return str(self._path(number))

    def _path(self, number: int) -> Path:
        return self._outer.path / str(number) / PurePath(self._sent.files[number].name).name


def _decode(outer: Layer) -> Sent:
    try:
        sent = from_json(outer.text, Sent)
    except DecodeError as error:
        raise _fault(outer, str(error)) from None
    if sent.version != VERSION:
        raise _fault(outer, f"version {sent.version}")
    numbers = [number for file in sent.files for number in file.bases.values()]
    if not sent.files or not all(0 <= number < len(sent.files) for number in numbers):
        raise _fault(outer, "files that it does not have")
    if not all(PurePath(file.name).name and "\0" not in file.name for file in sent.files):
        raise _fault(outer, "a file without a name")
    return sent


def _fault(outer: Layer, found: str) -> ProfileError:
    return ProfileError(
        Problem("this is no profile that qlaunch has sent", shown(outer.path), found,
                hint="the same version of qlaunch on both machines")
    )

"""YAML with line numbers: plain data only, YAML 1.2 numbers, no duplicate key, no bomb.

PyYAML reads `5e-4` as a string and `on` as true; a spec that means a number or a name gets one here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pi_repro.errors import RequestError, StateError

_MAX_NODES = 100_000
_MAX_DEPTH = 40
_MAX_BYTES = 4_000_000

Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's booleans and numbers."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same in C, for files that tools wrote."""


_REPLACED = {f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "timestamp", "merge")}
_NUMBERS = {
    "bool": (r"^(true|false)$", "tf"),
    "int": (r"^[-+]?[0-9]+$", "-+0123456789"),
    "float": (
        r"^([-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$",
        "-+.0123456789",
    ),
}
for _loader in (_Loader, _FastLoader):
    _loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for _name, (_pattern, _first) in _NUMBERS.items():
        _loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), list(_first))


def load_written(path: Path) -> Any:
    """Read a YAML file that a tool wrote and git keeps (dvc.lock), without line numbers.

    Raises:
        StateError: it is no YAML, as after a merge that left conflicts.
    """
    try:
        return yaml.load(path.read_bytes(), Loader=_FastLoader)  # noqa: S506 (derived from the safe loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or str(error)[:120]
        raise damaged(path, f"no valid YAML: {said}", mark.line + 1 if mark else None) from None


def damaged(path: Path, given: str, line: int | None = None) -> StateError:
    """The error for a file of git's that a tool wrote and something else altered.

    Args:
        given: what is wrong in it.
        line: where, from 1; None when that is not known.
    """
    return StateError(
        "file is damaged, or holds a merge conflict",
        where=f"{path}:{line}" if line else str(path),
        given=given,
        # Git refuses a plain `git checkout FILE` while FILE holds a conflict.
        todo=f"mend the line, or take the last commit's: git checkout HEAD {path.name}",
    )


_PLAIN = ("str", "int", "float", "bool", "null", "seq", "map")


def _is_plain(tag: str) -> bool:
    return tag.removeprefix("tag:yaml.org,2002:") in _PLAIN


@dataclass(frozen=True)
class YamlFile:
    """Parsed content and where each value stands.

    Attributes:
        path: the file.
        data: plain dicts, lists and scalars.
        lines: location -> 1-based line of the value (of the key, for a mapping's entry).
        elsewhere: location -> the file whose line that is, where it is not this one (see `extending`).
    """

    path: Path
    data: Any
    lines: dict[Location, int]
    elsewhere: Mapping[Location, Path] = field(default_factory=dict)

    def line(self, location: Location) -> int:
        """The line of a location, or of its nearest ancestor that exists."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)

    def where(self, location: Location) -> str:
        """file:line, field: as people and editors read it."""
        name = ".".join(str(part) for part in location)
        known = location
        while known and known not in self.lines:
            known = known[:-1]
        return f"{self.elsewhere.get(known, self.path)}:{self.line(location)}" + (f", {name}" if name else "")


def load(path: Path) -> YamlFile:
    """Read a YAML file.

    Raises:
        RequestError: when it is missing, no text, no YAML, repeats a key or is unreasonably large.
    """
    text = _text(path)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "nested too deeply"
        if isinstance(error, yaml.reader.ReaderError):
            where = f"{path}:{text.count(chr(10), 0, error.position) + 1}"
            problem = f"control character {text[error.position]!r}"
        raise RequestError(f"no valid YAML: {problem}", where=where, todo="mend the line or the one before") from None
    if node is None:
        raise RequestError("file is empty", where=str(path), todo="see specs/demo.yaml for an example")
    reader = _Reader(path)
    data = reader.value(node, ())
    return YamlFile(path=path, data=data, lines=reader.lines)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RequestError(f"file is larger than {_MAX_BYTES:,} bytes, no spec is", where=str(path))
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise RequestError(
            "no such file", where=str(path), allowed=", ".join(near) or None, todo="name a YAML file under specs/"
        ) from None
    except (IsADirectoryError, NotADirectoryError, PermissionError, OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise RequestError("no UTF-8 text", where=str(path), given=f"byte {error.start}") from None
        raise RequestError(f"cannot be read: {getattr(error, 'strerror', error)}", where=str(path)) from None


class _Reader:
    """Turns YAML nodes into data and remembers their lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Location, int] = {}
        self._seen = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, location: Location) -> Any:
        self._seen += 1
        if self._seen > _MAX_NODES or len(location) > _MAX_DEPTH:
            raise RequestError("nested too deeply or too large for a spec", where=f"{self.path}:{self._line(node)}")
        self.lines.setdefault(location, self._line(node))
        if not _is_plain(node.tag):
            raise RequestError(
                f"YAML tag {node.tag} is not plain data",
                where=f"{self.path}:{self._line(node)}",
                allowed="text, numbers, true, false, null, lists, mappings",
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*location, number)) for number, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            plain = isinstance(key_node, yaml.ScalarNode) and _is_plain(key_node.tag)
            key = self._scalar(key_node) if plain else None
            if not isinstance(key, str):
                raise RequestError(
                    "a field's name must be text",
                    where=f"{self.path}:{self._line(key_node)}",
                    given=getattr(key_node, "value", "a list or mapping"),
                    todo="put the name in quotes",
                )
            if key in found:
                raise RequestError(
                    f"field {key!r} is given twice",
                    where=f"{self.path}:{self._line(key_node)}",
                    todo=f"keep one; the first stands in line {self.lines[(*location, key)]}",
                )
            self.lines[(*location, key)] = self._line(key_node)
            found[key] = self.value(value_node, (*location, key))
        return found

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            if node.tag == "tag:yaml.org,2002:int":
                return int(node.value)  # YAML 1.1 would read 010 as eight
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise RequestError(
                "value cannot be read", where=f"{self.path}:{self._line(node)}", given=str(error)[:120]
            ) from None

    @staticmethod
    def _line(node: yaml.Node) -> int:
        return int(node.start_mark.line) + 1

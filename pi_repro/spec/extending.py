"""A spec that says only what differs: `extends: demo.yaml` lays it over another file of the same folder.

Rule: mappings are merged field by field (a part or model of another `name` is replaced whole), anything else is
replaced, and null in place of a mapping takes it away, such as an arm. What comes out is checked as if it had
been written in one file, and a message names the file and line that a value stands in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi_repro.errors import RequestError

from . import yamlfile
from .grids import merged
from .yamlfile import YamlFile

#: The field that names the other file.
EXTENDS = "extends"
_MOST = 4


def load(path: Path) -> tuple[YamlFile, tuple[Path, ...]]:
    """A spec's file laid over those that it extends, and their paths, the nearest first.

    Raises:
        RequestError: as `yamlfile.load`; or the other file is no name of one beside it, or extends too deep.
    """
    files = [yamlfile.load(path)]
    while isinstance(data := files[-1].data, dict) and EXTENDS in data:
        name, where = data[EXTENDS], files[-1].where((EXTENDS,))
        if not isinstance(name, str) or Path(name).name != name:
            raise RequestError("a spec extends a file of its own folder", where=where, given=name, allowed="its name")
        if len(files) > _MOST:
            raise RequestError("specs extend each other too deeply, or in a circle", where=where, given=name)
        if not (path.parent / name).is_file():
            near = ", ".join(sorted(file.name for file in path.parent.glob("*.yaml")))
            raise RequestError("no such file to extend", where=where, given=name, allowed=near)
        files.append(yamlfile.load(path.parent / name))
    if len(files) == 1:
        return files[0], ()
    whole = files[-1]
    for file in reversed(files[:-1]):
        whole = _laid_over(whole, file)
    return whole, tuple(file.path for file in files[1:])


def laid_over(base: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """A spec's data over that of the one it extends."""
    return _pruned(merged(base, {key: value for key, value in data.items() if key != EXTENDS}), base, data)


def _pruned(result: dict[str, Any], base: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Without the mappings of `base` that `data` has null for."""
    for key, value in data.items():
        old = base.get(key)
        if value is None and isinstance(old, Mapping):
            del result[key]
        elif isinstance(value, Mapping) and isinstance(old, Mapping) and isinstance(result.get(key), dict):
            result[key] = _pruned(result[key], old, value)
    return result


def _laid_over(base: YamlFile, file: YamlFile) -> YamlFile:
    if not isinstance(base.data, dict):
        return file
    elsewhere = {location: base.elsewhere.get(location, base.path) for location in base.lines} | dict(file.elsewhere)
    own = {location: path for location, path in elsewhere.items() if location not in file.lines}
    return YamlFile(file.path, laid_over(base.data, file.data), {**base.lines, **file.lines}, own)

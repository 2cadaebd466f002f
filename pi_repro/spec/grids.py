"""Many arms of one form, written once: every combination of some axes' values, each an arm with a name.

Rule: a grid is shorthand and nothing else. It is written out before the spec is checked, so what follows knows
arms only, and an arm of a grid is the arm that could have been written by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Annotated, Any

from pydantic import Field, ValidationError

from .base import Frozen, Name
from .yamlfile import Location, YamlFile


def merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`override` laid over `base`; mappings are merged, anything else is replaced."""
    result = dict(base)
    for key, value in override.items():
        old = result.get(key)
        whole = "name" in value if isinstance(value, Mapping) else True
        if (
            isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and not (whole and value.get("name") != old.get("name"))
        ):
            result[key] = merged(old, value)
        else:
            result[key] = value
    return result


class Grid(Frozen):
    """Arms named <grid>-<value>-<value>..., one for each combination of one value of every axis."""

    description: str = Field(description="of each arm; {axis} stands for the value's name")
    start: str = "draw"
    stages: tuple[str, ...]
    axes: dict[Name, Annotated[dict[Name, dict[str, dict[str, Any]]], Field(min_length=1)]] = Field(
        min_length=1, description="axis -> value -> what an arm with it overrides, stage by stage"
    )

    def combined(self, name: str) -> Iterator[tuple[str, dict[str, str]]]:
        """(name, axis -> value) of each arm, the last axis changing fastest."""
        for values in product(*self.axes.values()):
            yield "-".join([name, *values]), dict(zip(self.axes, values, strict=True))

    def arms(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, fields) of each arm, in the order of `combined`."""
        for arm, values in self.combined(name):
            override: dict[str, Any] = {}
            description = self.description
            for axis, value in values.items():
                override = merged(override, self.axes[axis][value])
                description = description.replace(f"{{{axis}}}", value)
            fields = {"description": description, "start": self.start, "stages": list(self.stages)}
            yield arm, {**fields, "override": override}


def written_out(science: Any) -> Any:
    """A science's data with the arms of its `grids` among its arms, and `grids` gone.

    Raises:
        ValueError: a grid is malformed, or an arm has the name of one of its arms.
    """
    if not isinstance(science, Mapping) or "grids" not in science:
        return science
    result = {key: value for key, value in science.items() if key != "grids"}
    grids, listed = science["grids"], science.get("arms") or {}
    if not isinstance(grids, Mapping):
        raise ValueError("grids: expected names and what each varies")
    if not isinstance(listed, Mapping):
        return result  # what is wrong with the arms is told by whoever checks them
    arms = dict(listed)
    for name, content in grids.items():
        try:
            made = list(Grid.model_validate(content).arms(str(name)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in ("grids", name, *first["loc"]))
            raise ValueError(f"{field}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
        for arm, fields in made:
            if arm in arms:
                raise ValueError(f"grid {name!r} makes an arm {arm!r}, which there is already")
            arms[arm] = fields
    result["arms"] = arms
    return result


def placed(file: YamlFile) -> YamlFile:
    """The file with lines for the arms of its grids: what one overrides stands in the grid."""
    science = file.data.get("science") if isinstance(file.data, Mapping) else None
    grids = science.get("grids") if isinstance(science, Mapping) else None
    stands: dict[Location, Location] = {}
    for name, content in grids.items() if isinstance(grids, Mapping) else ():
        try:
            grid = Grid.model_validate(content)
        except ValidationError:
            continue  # `written_out` says so
        whole: Location = ("science", "grids", name)
        for arm, values in grid.combined(str(name)):
            made: Location = ("science", "arms", arm)
            stands |= {made: whole, (*made, "start"): (*whole, "start"), (*made, "stages"): (*whole, "stages")}
            for axis, value in values.items():
                prefix: Location = (*whole, "axes", axis, value)
                inside = (place for place in file.lines if place[: len(prefix)] == prefix)
                stands |= {(*made, "override", *place[len(prefix) :]): place for place in inside}
    stands = {arm: place for arm, place in stands.items() if place in file.lines}
    lines = {arm: file.lines[place] for arm, place in stands.items()}
    elsewhere = {arm: file.elsewhere[place] for arm, place in stands.items() if place in file.elsewhere}
    return replace(file, lines={**lines, **file.lines}, elsewhere={**elsewhere, **file.elsewhere})

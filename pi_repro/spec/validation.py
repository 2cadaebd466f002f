"""From pydantic's errors to messages that name file, line, field, given, allowed and the nearest name."""

from __future__ import annotations

import difflib
import types
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from pi_repro.errors import RequestError

from .base import Frozen
from .yamlfile import Location, YamlFile

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], file: YamlFile, data: Any = None, prefix: Location = ()) -> Model:
    """Build a model from a file's data, or from data derived from it that stands at `prefix`.

    Raises:
        RequestError: one message holding every error, each with its place.
    """
    data = file.data if data is None else data
    if not isinstance(data, dict):
        raise RequestError("expected fields and values", where=file.where(prefix), given=_short(data))
    try:
        return model.model_validate(data)
    except ValidationError as error:
        messages = [_message(model, file, prefix, item) for item in error.errors(include_url=False)]
        raise combined(messages) from None


def combined(messages: list[RequestError]) -> RequestError:
    """One error out of several; the first stands alone when it is alone."""
    unique = {str(message): message for message in messages}
    if len(unique) == 1:
        return messages[0]
    return RequestError("\n".join(unique))


def nearest(given: str, names: list[str]) -> str | None:
    """The name that was probably meant."""
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    return close[0] if close else None


def _message(model: type[BaseModel], file: YamlFile, prefix: Location, item: Any) -> RequestError:
    location: Location = tuple(item["loc"])
    kind, context = item["type"], item.get("ctx", {})
    known = _known_part(file, prefix, location)
    where = file.where(prefix + known)
    given: Any = _short(item.get("input"))
    if kind == "extra_forbidden":
        names = field_names(model, location[:-1])
        guess = nearest(str(location[-1]), names)
        return RequestError(
            "no such field",
            where=file.where(prefix + location),
            given=location[-1],
            allowed=", ".join(sorted(names)) or None,
            todo=f"did you mean {guess!r}?" if guess else "remove the field",
        )
    if kind == "missing":
        return RequestError(
            f"field {str(location[-1])!r} is missing",
            where=file.where(prefix + location[:-1]),
            allowed=_description(model, location),
            todo=f"add `{location[-1]}:`",
        )
    if kind == "literal_error":
        allowed = str(context.get("expected"))
        guess = nearest(str(item.get("input")), [name.strip("'") for name in allowed.replace(" or ", ", ").split(", ")])
        return RequestError(
            "value is not one of those allowed",
            where=where,
            given=given,
            allowed=allowed,
            todo=f"did you mean {guess!r}?" if guess else None,
        )
    if kind == "value_error":
        return RequestError(str(context.get("error", item["msg"])), where=where)
    hint = _description(model, location)
    return RequestError(item["msg"][0].lower() + item["msg"][1:], where=where, given=given, allowed=hint)


def _known_part(file: YamlFile, prefix: Location, location: Location) -> Location:
    """The part of pydantic's location that stands in the file (it appends names of union members)."""
    while location and prefix + location not in file.lines:
        location = location[:-1]
    return location


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def field_names(model: type[BaseModel], location: Location) -> list[str]:
    """Names allowed at a location inside a model."""
    found = _model_at(model, location)
    return [*found.model_fields, *found.shorthand] if found and issubclass(found, Frozen) else []


def _description(model: type[BaseModel], location: Location) -> str | None:
    for end in range(len(location), 0, -1):
        parent = _model_at(model, location[: end - 1])
        name = location[end - 1]
        if parent and isinstance(name, str) and name in parent.model_fields:
            return parent.model_fields[name].description
    return None


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    annotation: Any = model
    for part in location:
        annotation = _step(annotation, part)
        if annotation is None:
            return None
    return next((item for item in _members(annotation) if _is_model(item)), None)


def _step(annotation: Any, part: str | int) -> Any:
    for item in _members(annotation):
        if _is_model(item):
            if isinstance(part, str) and part in item.model_fields:
                return item.model_fields[part].annotation
        elif get_origin(item) is dict:
            return get_args(item)[1]
        elif get_origin(item) in (tuple, list):
            return get_args(item)[0]
    return None


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for item in get_args(annotation) for member in _members(item)]
    return [annotation]


def _is_model(item: Any) -> bool:
    return isinstance(item, type) and issubclass(item, BaseModel)

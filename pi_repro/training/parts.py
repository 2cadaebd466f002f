"""Objectives, adapters and label sources by name: built in, or offered by an entry point.

Rule: a part is made of its options and nothing else; an unknown name or option is the request's
fault and says what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from pi_repro.errors import RequestError
from pi_repro.spec import plugins
from pi_repro.spec.training import Plugin

Part = TypeVar("Part")


def make(group: str, plugin: Plugin, built_in: Mapping[str, Callable[[Any], Part]]) -> Part:
    """The part that a spec names.

    Args:
        group: "objectives", "adapters" or "labels"; entry points stand in pi_repro.<group>.
        plugin: its name and options.
        built_in: name -> maker, given the options as the model that `spec.plugins` declares. What an
            entry point offers is called with the options as keywords instead.

    Raises:
        RequestError: nobody offers the name, or the options don't fit it.
    """
    where = f"{plugins.member(group)} {plugin.name!r}"
    try:
        if plugin.name in built_in:
            options = plugins.BUILT_IN[group][plugin.name]
            assert options is not None
            return built_in[plugin.name](options.model_validate(plugin.options))
        made: Part = plugins.load(group, plugin.name)(**plugin.options)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RequestError("options don't fit", where=where, given=problems) from None
    except TypeError as error:
        raise RequestError("options don't fit", where=where, given=str(error)) from error
    return made

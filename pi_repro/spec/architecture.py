"""Where a model's shape comes from: a config under specs/models/, a plugin, or open_clip's own file.

The file is read, open_clip is not imported (that would import torch).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pi_repro.errors import RequestError
from pi_repro.files import read_json

from . import plugins
from .validation import nearest


def architecture(name: str, folder: Path, where: str) -> dict[str, Any]:
    """open_clip's config of a model: embed_dim, vision_cfg, text_cfg.

    Raises:
        RequestError: when nobody knows the name.
    """
    own = folder / f"{name}.json"
    if own.is_file():
        return dict(read_json(own))
    if name in plugins.offered("models"):
        return dict(plugins.load("models", name))
    library = _open_clip_configs()
    if library and (library / f"{name}.json").is_file():
        return dict(read_json(library / f"{name}.json"))
    names = [path.stem for place in (folder, library) if place for path in place.glob("*.json")]
    guess = nearest(name, names)
    raise RequestError(
        "no such model",
        where=where,
        given=name,
        allowed=f"a file in {folder}, an entry point in pi_repro.models, or an open_clip name such as ViT-B-32",
        todo=f"did you mean {guess!r}?" if guess else None,
    )


def _open_clip_configs() -> Path | None:
    found = find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "model_configs"

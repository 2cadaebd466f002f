"""One set, taken over as its publisher packed it: checked and indexed where it lies, not one byte rewritten.

Rule: what the card says of a set (task, classes, images) is found in its files, or the set is refused with all that
differs. A tar's headers are read once; what was found lies beside the tars in a slip for the next fetch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pi_repro.data.indexfile import write_index
from pi_repro.data.sources.origin import Obtained
from pi_repro.errors import StateError
from pi_repro.files import read_json, tree_digest, write_atomic, write_json
from pi_repro.spec.card import AT_FIRST_FETCH

from . import tars
from .supply import CLASSNAMES, COUNT, TEMPLATES, TYPE, Supply

#: Folder of the slips, beside the tars; the number changes with what a slip holds or how images are judged.
_SLIPS = ".slips-1"


@dataclass(frozen=True)
class Adopted:
    """A set that lies in the data root and was found right.

    Attributes:
        supply: where it came from.
        tars: its tars in order.
        files: all its files by name.
        classes: number of class names; None for retrieval.
        captions: their number; None for classification.
    """

    supply: Supply
    tars: tuple[tars.Tar, ...]
    files: Mapping[str, Obtained]
    classes: int | None
    captions: int | None

    @property
    def n(self) -> int:
        """Images that can be judged."""
        return sum(len(tar.kept) for tar in self.tars)

    @property
    def labels(self) -> list[int]:
        """The class of each image of the tars, the undecodable ones too."""
        return [sample.label for tar in self.tars for sample in tar.samples]

    @property
    def failures(self) -> list[dict[str, str]]:
        """Images that are left out."""
        found = ((tar.name, key, reason) for tar in self.tars for key, reason in tar.failures)
        return [{"set": self.supply.entry.id, "tar": tar, "key": key, "reason": reason} for tar, key, reason in found]

    @property
    def record(self) -> dict[str, object]:
        """What card.json says of the source and its files."""
        return {
            **self.supply.record,
            "sha256": tree_digest((name, file.sha256) for name, file in self.files.items()),
            "bytes": sum(file.bytes for file in self.files.values()),
            "licence": self.supply.source.licence,
            "attribution": self.supply.source.attribution,
        }

    def keep(self, values: Sequence[Any]) -> list[Any]:
        """Of one value for each image of the tars, those whose images can be judged."""
        lost = {(tar.name, key) for tar in self.tars for key, _ in tar.failures}
        every = ((tar.name, sample.key) for tar in self.tars for sample in tar.samples)
        return [value for place, value in zip(every, values, strict=True) if place not in lost]

    def write(self, folder: Path, name: str) -> None:
        """Write the set's part of the suite: index and texts; the tars stay where they are.

        Args:
            folder: the set's folder.
            name: "<suite>/<set>", by which its tars are found below the data root.
        """
        for text in (CLASSNAMES, TEMPLATES, TYPE):
            if text in self.files:
                write_atomic(folder / text, self.files[text].path.read_bytes())
        kept = [(number, sample) for number, tar in enumerate(self.tars) for sample in tar.kept]
        retrieval = self.supply.entry.task == "retrieval"
        columns: dict[str, np.ndarray] = {
            "shard": np.array([number for number, _ in kept], dtype=np.int32),
            "image.offset": np.array([sample.image[0] for _, sample in kept], dtype=np.int64),
            "image.size": np.array([sample.image[1] for _, sample in kept], dtype=np.int32),
        }
        if retrieval:
            columns["text.offset"] = np.array([sample.answer[0] for _, sample in kept], dtype=np.int64)
            columns["text.size"] = np.array([sample.answer[1] for _, sample in kept], dtype=np.int32)
        else:
            columns["label"] = np.array([sample.label for _, sample in kept], dtype=np.int32)
        write_index(
            folder,
            {"name": name, "kind": self.supply.entry.task, "layout": "suite"},
            [{"name": t.name, "sha256": t.sha256, "bytes": t.bytes, "count": len(t.kept)} for t in self.tars],
            ["image", "text"] if retrieval else ["image"],
            {column: values.dtype for column, values in columns.items()},
            lambda column: [columns[column]],
        )


def adopt(
    supply: Supply,
    files: Mapping[str, Obtained],
    undecodable: int,
    should_stop: Callable[[], bool],
    images: Callable[[int], None],
) -> Adopted:
    """Check a set that was brought.

    Args:
        files: its files, as `Supply.bring` gave them.
        undecodable: images it may lose.
        should_stop: asked between images.
        images: told how many more images were looked at.

    Raises:
        StateError: it is not what the card says; all that differs is named.
        Interrupted: asked to stop; tars that were looked at are remembered.
    """
    names = _tar_names(supply, files)
    found = tuple(_tar(supply, files[name], name, undecodable, should_stop, images) for name in names)
    adopted = Adopted(supply, found, files, _classes(supply, files), _captions(supply, files, found))
    _check(adopted, undecodable)
    supply.adopt(files)
    return adopted


def _tar_names(supply: Supply, files: Mapping[str, Obtained]) -> list[str]:
    where = f"{supply.home / supply.split}"
    counter = f"{supply.split}/{COUNT}"
    if counter not in files:
        raise StateError(f"the set has no {counter}", where=where, todo="take the set in webdataset form")
    text = files[counter].path.read_text(encoding="utf-8", errors="replace").strip()
    names = [name for name in files if name.endswith(".tar")]
    wanted = [f"{supply.split}/{number}.tar" for number in range(int(text))] if text.isdecimal() else []
    if not wanted or set(names) != set(wanted):
        raise StateError(f"{COUNT} and the tars do not fit", where=where, given=f"{text[:20]!r}, {len(names)} tars")
    return wanted


def _tar(
    supply: Supply,
    file: Obtained,
    name: str,
    limit: int,
    should_stop: Callable[[], bool],
    images: Callable[[int], None],
) -> tars.Tar:
    slip = supply.home / _SLIPS / f"{Path(name).stem}.json"
    if slip.is_file():
        known = tars.Tar.of_slip(name, read_json(slip))
        if known.sha256 == file.sha256 and known.bytes == file.bytes:
            images(len(known.samples))
            return known
    tar = tars.read(file.path, name, file.sha256, supply.entry.task)
    failures = tars.undecodable(file.path, tar, limit, should_stop, images)
    tar = tars.Tar(tar.name, tar.bytes, tar.sha256, tar.samples, failures)
    if len(failures) <= limit:
        write_json(slip, tar.slip())
    return tar


def _classes(supply: Supply, files: Mapping[str, Obtained]) -> int | None:
    kind = files[TYPE].path.read_text(encoding="utf-8").strip().lower() if TYPE in files else "classification"
    if kind != supply.entry.task:
        raise StateError("the set has another task", where=str(supply.home), given=kind, allowed=supply.entry.task)
    if kind == "retrieval":
        return None
    templates = _lines(supply, files, TEMPLATES)
    if wrong := [line for line in templates if "{c}" not in line]:
        raise StateError("template takes no class name", where=str(supply.home / TEMPLATES), given=wrong[0])
    return len(_lines(supply, files, CLASSNAMES))


def _lines(supply: Supply, files: Mapping[str, Obtained], name: str) -> list[str]:
    if name not in files:
        raise StateError(f"a classification set needs {name}", where=str(supply.home))
    try:
        lines = [line.strip() for line in files[name].path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise StateError("file is no UTF-8 text", where=str(supply.home / name), given=str(error)) from None
    if not lines or not all(lines):
        raise StateError("one name or template a line, and no line empty", where=str(supply.home / name))
    return lines


def _captions(supply: Supply, files: Mapping[str, Obtained], found: Sequence[tars.Tar]) -> int | None:
    if supply.entry.task != "retrieval":
        return None
    return sum(tars.captions(files[tar.name].path, tar) for tar in found)


def _check(adopted: Adopted, undecodable: int) -> None:
    entry, supply = adopted.supply.entry, adopted.supply
    images = len(adopted.labels)
    wrong = []
    if entry.n is not None and images != entry.n:
        wrong.append(f"{images} images, the card says {entry.n}")
    if adopted.classes != entry.classes:
        wrong.append(f"{adopted.classes} class names, the card says {entry.classes}")
    if adopted.classes is not None:
        strange = sorted({label for label in adopted.labels if not 0 <= label < adopted.classes})
        if strange:
            wrong.append(f"labels outside 0 to {adopted.classes - 1}: {', '.join(map(str, strange[:5]))}")
    failures = adopted.failures
    if len(failures) > undecodable:
        some = "; ".join(f"{one['tar']} {one['key']}: {one['reason']}" for one in failures[:3])
        wrong.append(f"more than {undecodable} undecodable images: {some}")
    digest = adopted.record["sha256"]
    if supply.source.digest not in (AT_FIRST_FETCH, f"sha256:{digest}"):
        wrong.append(f"the files' digest is sha256:{digest}, the card says {supply.source.digest}")
    if images == 0:
        wrong.append("no image at all")
    if wrong:
        raise StateError(
            "the set is not what the card says",
            where=f"{entry.id} in {supply.home}",
            given="; ".join(wrong),
            todo="find out which is right; a set that differs on purpose is another line of the card",
        )

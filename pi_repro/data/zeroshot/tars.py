"""One tar that others wrote, read and never rewritten: its samples, where their members lie, and what is wrong.

Rule: a tar is taken as it is or refused by name. Its headers are read once; a link, a device, a name that leaves
the archive, a member that is there twice or a sample without image or answer refuses it. Samples are grouped as
webdataset groups them: neighbours whose names are equal up to the first dot of the file name.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from pi_repro.errors import Interrupted, StateError

#: In the order in which clip_benchmark looks for them.
IMAGES = ("webp", "png", "jpg", "jpeg")
#: Member that holds the answer, by task.
ANSWER = {"classification": "cls", "retrieval": "txt"}
#: bytes; far above any image of a benchmark
_LARGEST_IMAGE = 256 << 20
_LARGEST_ANSWER = 1 << 20
_MEMBERS = 2_000_000
_NAME = re.compile(r"(\./)?([A-Za-z0-9_-][A-Za-z0-9_.,()+@=~ -]*/)*[A-Za-z0-9_][A-Za-z0-9_,()+@=~ -]*\.[A-Za-z0-9._-]+")
#: A ustar header holds no longer name; longer ones lie in a block of their own, where no key is read back.
_NAME_LIMIT = 100
_WINDOW = 256


@dataclass(frozen=True)
class Sample:
    """One image and its answer, as (offset, bytes) in the tar.

    Attributes:
        key: the members' name up to the first dot.
        image: where the image lies.
        answer: where the class number or the captions lie.
        label: class number; 0 for captions.
    """

    key: str
    image: tuple[int, int]
    answer: tuple[int, int]
    label: int = 0


@dataclass(frozen=True)
class Tar:
    """A tar whose headers were read.

    Attributes:
        name: in its set: "test/0.tar".
        bytes: its size.
        sha256: of all of it.
        samples: in order, the undecodable ones too.
        failures: (key, reason) of images that cannot be decoded.
    """

    name: str
    bytes: int
    sha256: str
    samples: tuple[Sample, ...]
    failures: tuple[tuple[str, str], ...] = field(default=())

    @property
    def kept(self) -> tuple[Sample, ...]:
        """The samples whose images can be decoded."""
        lost = {key for key, _ in self.failures}
        return tuple(sample for sample in self.samples if sample.key not in lost)

    def slip(self) -> dict[str, Any]:
        """As JSON, for the next fetch."""
        rows = [[s.key, *s.image, *s.answer, s.label] for s in self.samples]
        failures = [list(failure) for failure in self.failures]
        return {"sha256": self.sha256, "bytes": self.bytes, "samples": rows, "failures": failures}

    @classmethod
    def of_slip(cls, name: str, slip: dict[str, Any]) -> Tar:
        """The tar that a slip describes."""
        samples = tuple(Sample(k, (a, b), (c, d), label) for k, a, b, c, d, label in slip["samples"])
        failures = tuple((key, reason) for key, reason in slip["failures"])
        return cls(name, slip["bytes"], slip["sha256"], samples, failures)


def read(path: Path, name: str, sha256: str, task: str) -> Tar:
    """Read a tar's headers and answers.

    Args:
        path: the file.
        name: what its set calls it.
        sha256: of its bytes, which the caller has just read or received.
        task: classification or retrieval.

    Raises:
        StateError: naming the tar and the member that refuses it.
    """
    samples, seen = [], set()
    with path.open("rb") as file:
        for key, group in groupby(_members(path), key=lambda member: _split(member[0])[0]):
            if key in seen:
                raise _refused(path, "a sample is there twice", key)
            seen.add(key)
            samples.append(_sample(path, file.fileno(), key, list(group), task))
    return Tar(name, path.stat().st_size, sha256, tuple(samples))


def undecodable(
    path: Path, tar: Tar, limit: int, should_stop: Callable[[], bool], advance: Callable[[int], None]
) -> tuple[tuple[str, str], ...]:
    """Decode every image as the evaluation will; (key, reason) of those that cannot be.

    Args:
        limit: stop looking once there are more than so many.
        advance: told the number of images that were looked at.

    Raises:
        Interrupted: asked to stop.
    """
    from pi_repro.data.transforms import decode

    failures: list[tuple[str, str]] = []
    # Pillow lets go of the interpreter while it decodes.
    with path.open("rb") as file, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:

        def look(sample: Sample) -> tuple[str, str] | None:
            try:
                decode(_pread(path, file.fileno(), *sample.image))
            except StateError as error:
                return sample.key, str(error.given or error.problem)
            return None

        for start in range(0, len(tar.samples), _WINDOW):
            window = tar.samples[start : start + _WINDOW]
            if should_stop():
                raise Interrupted("the stage was asked to stop while it looked at images", where=str(path))
            failures += [found for found in threads.map(look, window) if found is not None]
            advance(len(window))
            if len(failures) > limit:
                break
    return tuple(failures)


def captions(path: Path, tar: Tar) -> int:
    """Number of captions of a retrieval tar.

    Raises:
        StateError: naming an image without one, or whose captions are no text.
    """
    total = 0
    with path.open("rb") as file:
        for sample in tar.samples:
            try:
                lines = _pread(path, file.fileno(), *sample.answer).decode("utf-8").splitlines()
            except UnicodeDecodeError:
                raise _refused(path, "captions are no UTF-8 text", sample.key) from None
            if not lines:
                raise _refused(path, "image has no caption", sample.key)
            total += len(lines)
    return total


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the content, size) of every file in the tar."""
    seen: set[str] = set()
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                if member.isdir() and ".." not in member.name.split("/") and not member.name.startswith("/"):
                    continue
                if not member.isreg() or member.issparse():
                    raise _refused(path, "it holds a link, a device or a sparse file", member.name)
                if not _NAME.fullmatch(member.name) or len(member.name) > _NAME_LIMIT:
                    raise _refused(path, "a member has an odd name", member.name)
                if member.name in seen:
                    raise _refused(path, "two members have one name", member.name)
                if member.size > _LARGEST_IMAGE:
                    raise _refused(path, "a member is too large", member.name)
                seen.add(member.name)
                if len(seen) > _MEMBERS:
                    raise _refused(path, "too many members", len(seen))
                # tarfile keeps every header; nothing here asks for one again.
                tar.members = []  # type: ignore[attr-defined]
                yield member.name, member.offset_data, member.size
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise StateError(
            "tar is damaged", where=str(path), given=str(error), todo="delete it and fetch again"
        ) from None


def _split(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension.lower()


def _sample(path: Path, file: int, key: str, members: list[tuple[str, int, int]], task: str) -> Sample:
    places = {_split(name)[1]: (offset, size) for name, offset, size in members}
    if len(places) != len(members):
        raise _refused(path, "two members differ in case alone", key)
    image = next((places[extension] for extension in IMAGES if extension in places), None)
    answer = places.get(ANSWER[task])
    if image is None or answer is None:
        wanted = f"one of {', '.join(IMAGES)}, and {ANSWER[task]}"
        if "npy" in places and task == "classification":
            wanted += " (this is a multi-label set; the suite wants the single-label one)"
        raise _refused(path, "sample is incomplete", f"{key}: {', '.join(sorted(places))}", wanted)
    if answer[1] > _LARGEST_ANSWER:
        raise _refused(path, "answer is too large", key)
    if task == "retrieval":
        return Sample(key, image, answer)
    content = _pread(path, file, *answer)
    try:
        return Sample(key, image, answer, int(content))
    except ValueError:
        raise _refused(path, "class is no number", f"{key}: {content[:40]!r}") from None


def _pread(path: Path, file: int, offset: int, size: int) -> bytes:
    content = os.pread(file, size, offset)
    if len(content) != size:
        raise StateError("tar is damaged: it ends too early", where=str(path), todo="delete it and fetch again")
    return content


def _refused(path: Path, problem: str, given: object, allowed: str | None = None) -> StateError:
    shown = ascii(given) if isinstance(given, str) and not given.isprintable() else given
    return StateError(f"tar is refused: {problem}", where=str(path), given=shown, allowed=allowed)

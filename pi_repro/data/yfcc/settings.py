"""What YFCC15M's cards may say under `settings`, and which of it decides the shards' bytes.

Rule: hold-out, subset, exclude list and kind of caption choose and name rows; they alter no shard, so cards that
differ in nothing else share their shards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pi_repro.data.view import View
from pi_repro.errors import RequestError, StateError
from pi_repro.files import sha256_file
from pi_repro.spec.base import Count, Frozen, Name

Captions = Literal["undeclared", "raw", "synthetic", "generated", "mixed"]
Whole = Annotated[int, Field(ge=0)]


class ColumnNames(Frozen):
    """What the parquet files' columns are called."""

    image: str = Field(default="images", description="image files: binary, or {bytes, path}")
    text: str = Field(default="texts", description="lists of token ids")
    photo_id: str | None = Field(default=None, description="Flickr's number of the photograph, where there is one")


class ListFile(Frozen):
    """A text file beside the card, one entry a line; "#" begins a comment."""

    path: str = Field(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$", description="from the workspace")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the file, so that a change of it is a change here")


class YfccSettings(Frozen):
    """One dataset cut from the copy."""

    columns: ColumnNames = ColumnNames()
    captions: Captions = Field(description="what a person says the captions are, who has looked at them")
    segment: Whole = Field(description="which run of `context` ids of a row is the caption, from 0")
    context: Annotated[int, Field(ge=3)] = Field(description="ids of a caption, with start and end")
    shards: Count = Field(description="parquet files expected")
    rows: Count | None = Field(default=None, description="rows expected in them, where the card's count is of fewer")
    holdout: Whole = Field(description="pairs that no training sees")
    holdout_rule: Literal["lowest_keyed_hash"]
    holdout_seed: int
    side: Literal["train", "holdout"] = Field(default="train", description="the pairs for training, or those held out")
    subset: Count | None = Field(default=None, description="so many of the pairs for training; null: all")
    subset_seed: int = 0
    shards_of: Name | None = Field(default=None, description="the dataset whose shards these are; null: its own")
    exclude: tuple[str | int, ...] = Field(default=(), description="keys or photo ids that were taken down")
    exclude_file: ListFile | None = None
    failures_allowed: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.01, description="share of rows that may be unusable before the copy is refused"
    )

    def decides(self) -> dict[str, Any]:
        """The settings that alter a shard's bytes."""
        return {
            "columns": self.columns.model_dump(mode="json"),
            "segment": self.segment,
            "context": self.context,
        }

    def view(self, workspace: Path) -> View:
        """The rows that the dataset has.

        Args:
            workspace: folder that `exclude_file` is named from.

        Raises:
            StateError, RequestError: the exclude list is missing, or another than the card means.
        """
        entries = {str(entry) for entry in self.exclude}
        if self.exclude_file is not None:
            entries |= listed(self.exclude_file, workspace)
        return View(
            self.holdout, self.holdout_seed, self.side, self.subset, self.subset_seed, exclude=frozenset(entries)
        )


def listed(file: ListFile, workspace: Path) -> set[str]:
    path = workspace / file.path
    if ".." in Path(file.path).parts:
        raise RequestError("the exclude list lies outside the workspace", given=file.path)
    if not path.is_file():
        raise StateError("the exclude list is missing", where=file.path)
    if (found := sha256_file(path)) != file.sha256:
        raise StateError(
            "the exclude list is another one than the card means",
            where=file.path,
            given=found,
            allowed=file.sha256,
            todo="write the new sha256 into the card: the dataset is then another one",
        )
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {line for line in lines if line}

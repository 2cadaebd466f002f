"""What the card of OpenAI's list may say under `settings`, and which of it decides the shards' bytes.

Rule: as in `pi_repro.data.yfcc.settings`, what chooses rows alters no shard.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pi_repro.data.view import View
from pi_repro.data.yfcc.settings import ListFile, listed
from pi_repro.spec.base import Count, Frozen

Whole = Annotated[int, Field(ge=0)]


class TextSettings(Frozen):
    """How a photograph's words become its caption; see `caption.py` for the cleaning, which is always the same."""

    fields: tuple[Literal["title", "description"], ...] = Field(min_length=1, description="in this order")
    joined_by: str = Field(default=". ", description="between two fields, unless the first ends a sentence itself")
    longest: Annotated[int, Field(ge=20)] = Field(description="characters; a longer caption ends at a word before that")


class OpenaiListSettings(Frozen):
    """One dataset cut from the list."""

    captions: Literal["raw"] = Field(description="what people wrote: title and description")
    text: TextSettings
    images: Literal["bucket", "img2dataset"] = Field(description="where photographs come from; see the card's how_to")
    photographs: Count = Field(description="photographs on the list, as its makers say; another number is warned of")
    part_size: Annotated[int, Field(ge=1, le=10_000)] = Field(description="photographs of the list a part, one shard")
    missing_allowed: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="share of a part's photographs that may be gone or unusable before the part is refused"
    )
    holdout: Whole = 0
    holdout_seed: int = 0
    side: Literal["train", "holdout"] = "train"
    subset: Count | None = None
    subset_seed: int = 0
    exclude: tuple[str | int, ...] = Field(default=(), description="photo ids that were taken down")
    exclude_file: ListFile | None = None

    def decides(self) -> dict[str, Any]:
        """The settings that alter a shard's bytes."""
        return {"text": self.text.model_dump(mode="json"), "images": self.images, "part_size": self.part_size}

    def view(self, workspace: Path) -> View:
        """The rows that the dataset has; see `YfccSettings.view`."""
        excluded = {str(entry) for entry in self.exclude}
        if self.exclude_file is not None:
            excluded |= listed(self.exclude_file, workspace)
        return View(
            self.holdout, self.holdout_seed, self.side, self.subset, self.subset_seed, exclude=frozenset(excluded)
        )

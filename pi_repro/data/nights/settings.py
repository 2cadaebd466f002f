"""What the card of NIGHTS may say under `settings`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pi_repro.spec.base import Count, Frozen, Name

#: Filled in where the table's splits are counted; test has two halves beside.
Split = Literal["train", "val", "test"]


class NightsSettings(Frozen):
    """How NIGHTS is read; only `min_votes`, `shard_size` and the card's `short_side` alter its shards."""

    form: Literal["zip", "chunked"] = Field(
        description="zip: one archive with everything; chunked: 200 archives of images, and the table out of the one "
        "archive by ranges, or from a local copy of it. Both give the same bytes"
    )
    archive: Name = Field(description="the source with the one archive, or with the table alone")
    chunks: Name = Field(description="the source with ref/NNN.zip and distort/NNN.zip")
    table: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.csv$", description="the table's file name")
    rows: Count = Field(description="rows that the table is expected to have")
    min_votes: Annotated[int, Field(ge=1, le=255)] = Field(description="rows with fewer are left out")
    label: Literal["right_vote"] = Field(description="the column that is 1 where people chose the right image")
    splits: dict[Split, Count] = Field(description="triplets expected after the filter")
    shard_size: Count
    images: Literal["original"] = Field(description="stored as published; the card's short_side makes them smaller")
    keep_archive: bool = Field(description="false: archives are removed once every shard is whole")
    max_failures: Annotated[int, Field(ge=0)] = Field(
        description="triplets with a missing or undecodable image that may be left out, each of them listed"
    )
    category_sources: dict[str, tuple[str, ...]] = Field(
        description="data set that lent its category names -> benchmarks whose classes have these names"
    )

    @model_validator(mode="after")
    def _complete(self) -> NightsSettings:
        if set(self.splits) != {"train", "val", "test"}:
            raise ValueError("splits are train, val, test")
        return self

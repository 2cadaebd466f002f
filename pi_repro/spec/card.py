"""A card: what a dataset or suite is, where it comes from, under which licence, how it is checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import Count, Frozen, Name

#: What a card says where no published hash is known; never an invented one.
AT_FIRST_FETCH = "recorded at first fetch"

Bytes = Annotated[int, Field(ge=0)]


class Source(Frozen):
    """One thing to be fetched."""

    name: Name
    kind: Literal["npm", "pypi", "http", "hub", "wds", "objects", "registry", "generated"]
    locator: str = Field(description="package name, URL, hub repository or bucket URL")
    revision: str = Field(description="exact version, commit, or 'recorded at first fetch'")
    digest: str = Field(
        pattern=r"^(sha(256|512)(:[0-9a-f]{64,128}|-[A-Za-z0-9+/=]{40,100})|recorded at first fetch)$",
        description="sha256:<hex>, sha512-<base64> (npm's form), or 'recorded at first fetch'",
    )
    bytes: Bytes | None = Field(description="download size; null where not known")
    licence: str
    attribution: str = ""
    access: Literal["open", "accept_licence", "gated"] = "open"
    how_to: str = Field(default="", description="what a person must do first, where access is not open")


class SuiteSet(Frozen):
    """One benchmark of a suite."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_./-]*$")
    title: str
    task: Literal["classification", "retrieval"]
    family: str
    source: Name | None = Field(default=None, description="name of the source it is fetched from")
    classes: Count | None = Field(description="null for retrieval")
    n: Count | None = Field(description="test images; null where nothing that was read says: then found at fetch")
    metric: str = Field(description="the headline metric: acc1, mean_per_class_recall, ...")
    grade: Literal["P", "C", "D", "R", "S", "own"] = Field(description="evidence, as in FACTS; own: ours")
    disjoint: bool = Field(default=True, description="counts in the win count: shares no item with another")
    note: str = ""


class Card(Frozen):
    """One YAML file under specs/data/."""

    name: Name
    kind: Literal["pairs", "triplets", "suite"]
    title: str
    description: str
    licence: str
    citation: str = ""
    fetcher: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="built in, or an entry point")
    location: Literal["workspace", "site"] = Field(
        description="workspace: shards are outputs; site: shards stay in the site's data root"
    )
    sources: tuple[Source, ...] = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict, description="the fetcher's own options")
    count: Count = Field(description="samples for training (pairs, train triplets) or test images of a suite")
    disk_bytes: Bytes = Field(description="shards on disk, estimated where not fetched yet")
    files: Count = Field(description="inodes, estimated where not fetched yet")
    short_side: Count | None = Field(
        default=None,
        description="images longer than this on their shorter side are made smaller when fetched, in pixels; "
        "null: stored as fetched",
        # So a card without it is hashed as it was before there was this field.
        exclude_if=lambda pixels: pixels is None,
    )
    sets: tuple[SuiteSet, ...] = ()
    warnings: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _suites_stay(self) -> Card:
        if self.kind == "suite" and self.short_side is not None:
            raise ValueError("a suite takes no short_side: its images are judged as they are")
        return self

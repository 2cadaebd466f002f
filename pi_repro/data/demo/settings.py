"""What the demo's cards may say under `settings`; an unknown or missing field is refused by name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pi_repro.spec.base import Count, Frozen, Name


class HeldOut(Frozen):
    """The draw of concepts that no training vendor shows; the same in every card of the demo."""

    key: str = Field(min_length=1)
    one_in: int = Field(ge=2)


class VendorSettings(Frozen):
    """How a vendor's package is read."""

    source: Name
    form: Literal["openmoji-color", "openmoji-black", "iconify", "raster"]
    country_flags: bool = Field(default=True, description="false: they are kept for a benchmark")


class CorpusSettings(Frozen):
    """Which concepts and drawings there are, and how they are rendered."""

    renderer: str = Field(description="package==version whose pixels the card means")
    size: int = Field(ge=16, le=1024, description="pixels a side")
    concepts_from: Name = Field(description="the openmoji package, whose table names the concepts")
    names_from: tuple[Name, ...] = Field(description="iconify packages that tell which name is which code")
    held_out: HeldOut
    concepts: Count | None = Field(description="a keyed draw of so many concepts; null: all")
    vendors: dict[Name, VendorSettings] = Field(min_length=1)
    drop: tuple[str, ...] = Field(default=(), description="vendor/code of wrong or broken drawings")


class PairsSettings(CorpusSettings):
    """Image-text pairs."""

    captions: tuple[str, ...] = Field(min_length=1, description="forms with {name} and {keywords}")
    shard_size: Count

    @model_validator(mode="after")
    def _known_fields(self) -> PairsSettings:
        check_forms(self.captions)
        return self


class SetSettings(Frozen):
    """How one set of the suite is put together."""

    kind: Literal["emoji", "digits"] = "emoji"
    vendors: tuple[Name, ...] = ()
    concepts: Literal["training", "held_out", "all"] = "training"
    match: tuple[str, ...] = Field(default=("*",), description="shell patterns on group/subgroup/name")
    exclude: tuple[str, ...] = ()
    label: Literal["concept", "group", "subgroup"] = "concept"
    classnames: dict[str, str] = Field(default_factory=dict, description="for groups and subgroups")
    templates: tuple[str, ...] = Field(default=(), description="with {c}; none for retrieval")
    captions: tuple[str, ...] = Field(default=(), description="retrieval: each image has all of these")
    unlike: Name | None = Field(default=None, description="a vendor none of whose training images may be in it")
    limit: Count | None = Field(default=None, description="a keyed draw of so many concepts; digits: of each class")
    source: Name | None = None
    member: str | None = Field(default=None, description="digits: the table in the package")

    @model_validator(mode="after")
    def _complete(self) -> SetSettings:
        check_forms(self.captions)
        if any("{c}" not in template for template in self.templates):
            raise ValueError("a template has no {c}")
        if bool(self.templates) == bool(self.captions):
            raise ValueError("a set has templates (classification) or captions (retrieval)")
        if (self.kind == "digits") != (self.source is not None and self.member is not None and not self.vendors):
            raise ValueError("digits have source and member, emoji have vendors")
        return self


class SuiteSettings(CorpusSettings):
    """Benchmarks made of held-out drawings."""

    sets: dict[str, SetSettings] = Field(min_length=1)


def check_forms(forms: tuple[str, ...]) -> None:
    """Raise ValueError for a caption form with other fields than {name} and {keywords}, or without a name."""
    for form in forms:
        rest = form.replace("{name}", "").replace("{keywords}", "")
        if "{" in rest or "}" in rest or "{name}" not in form:
            raise ValueError(f"caption form {form!r} needs {{name}} and knows {{keywords}}, nothing else")

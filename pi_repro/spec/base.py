"""The base of every model here: frozen, no unknown field, no silent conversion of types."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

#: DVC stage keys allow no other characters (DESIGN 3).
NAME_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=48)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Frozen(BaseModel):
    """A value object. Lists arrive as tuples so that nothing inside can be changed either."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    #: Names that a file may have here besides the fields: what stands under them is written out before the check.
    shorthand: ClassVar[tuple[str, ...]] = ()


def is_power_of_two(number: int) -> bool:
    """True for 1, 2, 4, 8, ..."""
    return number > 0 and number & (number - 1) == 0

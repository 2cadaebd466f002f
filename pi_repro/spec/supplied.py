"""What a person says of sources by the environment: local copies of them, terms that are accepted, patience.

Rule: it is read here alone, by whoever plans a fetch and whoever does it, and `variables` is all of it: a launcher
whose jobs do not inherit this environment hands that on.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from pi_repro.errors import RequestError

#: Local copies that stand for sources, set by `pirepro data fetch --from`: a JSON object, source -> absolute path.
FROM = "PIREPRO_FROM"
#: Names of the gated sources whose terms the user has accepted, separated by spaces or commas.
ACCEPTED = "PIREPRO_ACCEPTED"
#: Bounds on a transfer, as pi_repro.data.sources.patience reads them.
PATIENCE = "PIREPRO_PATIENCE"


def copies() -> dict[str, Path]:
    """The local copies that stand for sources (or, by a suite's name, for any of its sets), by name.

    Raises:
        RequestError: FROM is no JSON object of absolute paths.
    """
    given = os.environ.get(FROM, "")
    todo = "pirepro data fetch NAME --from [SOURCE=]PATH sets it"
    try:
        found = {name: Path(path) for name, path in json.loads(given if given.strip() else "{}").items()}
    except (ValueError, TypeError, AttributeError):
        raise RequestError("not a JSON object of paths", where=FROM, given=given[:200], todo=todo) from None
    for path in found.values():
        if not path.is_absolute():
            raise RequestError("not an absolute path", where=FROM, given=str(path), todo=todo)
    return found


def accepted() -> frozenset[str]:
    """The gated sources whose terms the user has accepted."""
    return frozenset(re.split(r"[\s,]+", os.environ.get(ACCEPTED, ""))) - {""}


def variables() -> dict[str, str]:
    """All of it that is set, as a job's environment is to hold it.

    Raises:
        RequestError: FROM is no JSON object of absolute paths.
    """
    copies()
    return {name: os.environ[name] for name in (FROM, ACCEPTED, PATIENCE) if os.environ.get(name, "").strip()}

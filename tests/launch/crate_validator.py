"""The RO-Crate validator without a network: its one remote file, the context, comes from ro-crate-py's package."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import requests
import rocrate
from requests.adapters import HTTPAdapter
from requests_cache import CachedSession
from rocrate_validator import services
from rocrate_validator.models import Severity
from urllib3.response import HTTPResponse

CONTEXT = "https://w3id.org/ro/crate/1.3/context"


class _Shipped(HTTPAdapter):
    """Answers with RO-Crate's published 1.3 context, which ro-crate-py carries."""

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        body = io.BytesIO((Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_bytes())
        kind = {"Content-Type": "application/ld+json"}
        answer = HTTPResponse(body, status=200, headers=kind, preload_content=False, request_url=request.url)
        return self.build_response(request, answer)


def issues(crate: Path, cache: Path) -> list[str]:
    """What violates a MUST of RO-Crate 1.3 or of Process Run Crate 0.5.

    Args:
        crate: folder or .zip.
        cache: a folder for the validator's cache of remote files.
    """
    session = CachedSession(str(cache / "http"), backend="sqlite", expire_after=-1)
    session.mount("https://", _Shipped())
    session.get(CONTEXT)
    session.close()
    found = []
    # The second profile is written for RO-Crate 1.1, whose own rules for the metadata file are left out.
    for profile, own in (("ro-crate-1.3", False), ("process-run-crate", True)):
        settings = services.ValidationSettings(
            rocrate_uri=str(crate),
            profile_identifier=profile,
            requirement_severity=Severity.REQUIRED,
            disable_inherited_profiles_issue_reporting=own,
            offline=True,
            cache_path=cache / "http",
        )
        result = services.validate(settings)
        found += [f"{issue.check.identifier}: {issue.message}" for issue in result.get_issues()]
        assert result.passed() == (not result.get_issues())
    return found

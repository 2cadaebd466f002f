"""Files of a dataset on the hub, at one commit: its client says what there is, the bytes come over our own transfer.

The commit is the card's, or the one that main had at the first fetch. Every file is held against what the hub says of
it: size and sha256 of large files, git's digest of small ones. HF_ENDPOINT and HF_TOKEN are the hub client's own; the
token goes to that endpoint only, never to the host that it redirects to, and into no log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, errors, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._headers import build_hf_headers

from pi_repro.errors import PireproError, RequestError, StateError
from pi_repro.spec.card import Source

from .client import Unreachable
from .origin import UNWATCHED, Obtained, RemoteFile, Watch, git_digest, record_of, scrub
from .patience import Busy, Patience, persist, retry_after
from .pins import Pins
from .transfer import Checks, fetch
from .url import LATER, HttpSupply, quiet, read_range

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_Result = TypeVar("_Result")


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


@dataclass(frozen=True)
class HubOrigin:
    """A dataset repository at one commit."""

    source: Source
    pins: Pins
    patience: Patience

    @classmethod
    def at(cls, source: Source, pins: Pins, patience: Patience) -> HubOrigin:
        """The origin of a card's source.

        Raises:
            RequestError: the locator is no owner/name.
        """
        if not _REPO.fullmatch(source.locator):
            raise RequestError(
                "not a repository of the hub",
                where=f"source {source.name}",
                given=source.locator,
                allowed="owner/name",
            )
        quiet()
        return cls(source, pins, patience)

    @property
    def _what(self) -> str:
        return f"hub dataset {self.source.locator}"

    @property
    def revision(self) -> str:
        """The commit; asked for once, where the card names none."""
        if _COMMIT.fullmatch(self.source.revision):
            return self.source.revision
        return self.pins.pin_revision(lambda: self._commit_of(None))

    @property
    def record(self) -> Mapping[str, object]:
        return record_of(self.source, self.revision)

    def _commit_of(self, revision: str | None) -> str:
        info = self._ask(lambda api: api.dataset_info(self.source.locator, revision=revision, timeout=60.0))
        return str(info.sha)

    def _ask(self, question: Callable[[HfApi], _Result]) -> _Result:
        """An answer of the hub's API, asked again while it says "later"."""

        def once() -> _Result:
            try:
                return question(HfApi(endpoint=_endpoint(), library_name="pirepro"))
            except errors.HfHubHTTPError as error:
                response = error.response
                if response is not None and response.status_code in LATER:
                    raise Busy(f"the hub answers {response.status_code}", retry_after(response.headers)) from None
                refusal = self._refusal(response) if response is not None else None
                raise refusal or StateError("the hub refuses", where=self._what, given=scrub(error)) from None
            except errors.OfflineModeIsEnabled:
                raise StateError(
                    "the hub's client is set to work offline",
                    where=self._what,
                    todo="unset HF_HUB_OFFLINE, or give a copy: --from PATH",
                ) from None
            except (httpx2.RequestError, ValueError) as error:  # ValueError: no JSON
                if isinstance(error, PireproError):
                    raise
                raise Unreachable(f"{type(error).__name__}: {scrub(error)}") from None

        return persist(self._what, once, self.patience, UNWATCHED)

    def _refusal(self, response: httpx2.Response) -> StateError | None:
        """What an answer of the hub means; None for a good one of the right commit."""
        status, page = response.status_code, f"{scrub(_endpoint())}/datasets/{self.source.locator}"
        first = (*response.history, response)[0]
        code = first.headers.get("x-error-code", "")
        if code == "GatedRepo" or (status == 403 and first is response):
            return StateError(
                "this dataset is gated: its owners ask every user to accept their terms first",
                where=self._what,
                todo=f"log in at {page}, accept the terms there, export HF_TOKEN=<a token of that account> "
                f"(it must be allowed to read gated repositories) and run it again. {self.source.how_to}".rstrip(". "),
            )
        if code == "RepoNotFound" or status == 401:
            return StateError(
                "the hub has no such dataset, or it is private, or the token is not valid",
                where=self._what,
                given=page,
                todo="check the locator; where it is private, export HF_TOKEN",
            )
        if code == "RevisionNotFound":
            return StateError(
                "the hub no longer has the pinned revision; its history was rewritten",
                where=self._what,
                given=self.source.revision,
                todo=f"look at {page}; to accept what is there now, write its commit into the card",
            )
        if status == 404 and first is response:
            return StateError(
                "the dataset has no such file at this revision", where=self._what, given=scrub(response.url)
            )
        commit = first.headers.get("x-repo-commit")
        if status in (200, 206) and commit is not None and commit != self.revision:
            return self._changed(commit)
        return None

    def _changed(self, commit: str) -> StateError:
        return StateError(
            "the hub answers with another revision than the pinned one",
            where=self._what,
            given=commit,
            allowed=self.revision,
            todo="check HF_ENDPOINT and the mirror behind it; to accept the new one, write its commit into the card",
        )

    def _listing(self) -> list[dict[str, Any]]:
        """Name, size and digests of every file; kept, since a commit never changes."""
        kept = self.pins.listing()
        if kept is not None:
            return kept
        commit = self.revision
        if (found := self._commit_of(commit)) != commit:
            raise self._changed(found)
        repo = self.source.locator
        entries = self._ask(
            lambda api: [
                entry
                for entry in api.list_repo_tree(repo, recursive=True, revision=commit, repo_type="dataset")
                if isinstance(entry, RepoFile)
            ]
        )
        files = [
            {
                "name": entry.path,
                "bytes": entry.size if entry.lfs is None else entry.lfs.size,
                "sha256": None if entry.lfs is None else entry.lfs.sha256,
                "git": entry.blob_id if entry.lfs is None else None,
            }
            for entry in entries
        ]
        self.pins.keep_listing(files)
        return files

    def _entry(self, name: str) -> dict[str, Any]:
        for entry in self._listing():
            if entry["name"] == name:
                return entry
        raise StateError(
            "the dataset has no such file at this revision", where=self._what, given=f"{name} at {self.revision}"
        )

    def files(self) -> tuple[RemoteFile, ...]:
        found = [RemoteFile(entry["name"], entry["bytes"], entry["sha256"]) for entry in self._listing()]
        return tuple(sorted(found, key=lambda file: file.name))

    def file(self, name: str) -> RemoteFile:
        entry = self._entry(name)
        return RemoteFile(name, entry["bytes"], entry["sha256"])

    def _supply(self, entry: Mapping[str, Any]) -> HttpSupply:
        url = hf_hub_url(
            self.source.locator, entry["name"], repo_type="dataset", revision=self.revision, endpoint=_endpoint()
        )
        headers = build_hf_headers(library_name="pirepro")
        fixed = entry["sha256"] or entry["git"]
        return HttpSupply(url, self.patience, headers, self._refusal, fixed)

    def obtain(self, file: RemoteFile, target: Path, watch: Watch = UNWATCHED) -> Obtained:
        entry = self._entry(file.name)

        def git_differs(path: Path) -> str | None:
            if entry["git"] is None:
                return None
            content = path.read_bytes()
            digest = git_digest(len(content))
            digest.update(content)
            return None if digest.hexdigest() == entry["git"] else f"git {digest.hexdigest()}, not {entry['git']}"

        checks = Checks(git_differs, lambda size, sha256: self.pins.check(file.name, size, sha256))
        return fetch(
            self._supply(entry), file, target, watch, self.patience, lambda: self.pins.sha256(file.name), checks
        )

    def read(self, name: str, start: int, length: int) -> bytes:
        return read_range(self._supply(self._entry(name)), start, length, self.patience)

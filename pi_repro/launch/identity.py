"""Which process a record speaks of, and whether that process lives: by machine, boot, namespace, number and start."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PIDS = Path("/proc/self/ns/pid")


def me() -> dict[str, Any]:
    """This process, for a record that `alive` reads."""
    return {
        "host": socket.gethostname(),
        "boot": boot(),
        "pids": os.readlink(_PIDS) if _PIDS.exists() else "",
        "pid": os.getpid(),
        "began": began(os.getpid()),
    }


def alive(other: Mapping[str, Any]) -> bool | None:
    """Whether the process of a record lives; None when that can't be told from here.

    Another boot's may be another machine of the same name, and a container may have process numbers of its own.
    """
    mine = me()
    if not mine["boot"] or any(other.get(name) != mine[name] for name in ("host", "boot", "pids")):
        return None
    if not other.get("began"):
        return None
    return bool(began(int(other["pid"])) == other["began"])


def boot() -> str:
    """This boot of this machine; "" where the kernel has no number for it."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""


def began(pid: int) -> str:
    """When a process began, in the kernel's ticks, which tells it from a later one of its number; "" if it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]

"""What a compute node says of itself, run there by `pirepro doctor --site`; the standard library alone.

It answers in files of a folder that the login node shares:
`started.json` at once, then, when the login node's `answer.json` is seen (or has not come in time),
`findings.json`. What fails is a finding, never an exception: the login node judges.

    python -m pi_repro.launch.slurm.inquire REQUEST.json

REQUEST.json: {"folder": path, "token": text, "wait_s": seconds, "folders": {name: path}, "gpu": bool}.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_TORCH = (
    "import json, torch; n = torch.cuda.device_count() if torch.cuda.is_available() else 0; "
    "print(json.dumps([torch.__version__, [torch.cuda.get_device_name(i) for i in range(n)]]))"
)


def main(request_path: str) -> int:
    """Answer one request; 0 when the answer was written."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    folder = Path(request["folder"])
    begin = time.time()
    _write(folder / "started.json", {"token": request["token"], "time": begin})
    heard = _hear(folder / "answer.json", begin, float(request["wait_s"]))
    findings = {
        "token": request["token"],
        "heard": heard,
        "clock": {"sent": begin, "login": heard["time"], "received": heard["received"]} if heard else None,
        "lock": _lock(folder / "lock"),
        "folders": {name: _folder(Path(path)) for name, path in request["folders"].items()},
        "host": socket.gethostname(),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "python": platform.python_version(),
        "executable": sys.executable,
        "torch": _torch(),
        "cuda_visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "devices": _devices() if request["gpu"] else [],
        "image": _image(),
    }
    _write(folder / "findings.json", findings)
    return 0


def _hear(path: Path, begin: float, patience_s: float) -> dict[str, Any] | None:
    """The login node's answer and when it was seen; None when it did not come in time."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        # Listing makes some shared file systems look again for new names.
        with contextlib.suppress(OSError, ValueError):
            os.listdir(path.parent)
            answer = json.loads(path.read_text(encoding="utf-8"))
            if answer["to"] == begin:  # not to a start before this one
                return {"time": float(answer["time"]), "received": time.time()}
        time.sleep(0.1)
    return None


def _lock(path: Path) -> str:
    """How flock fares on a file that the login node holds: "seen", "not seen", or why it can't be tried."""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return "not seen"
    except BlockingIOError:
        return "seen"
    except OSError as error:
        return error.strerror or str(error)


def _folder(path: Path) -> str:
    """ "writable", "read-only" or "missing"."""
    if not path.is_dir():
        return "missing"
    return "writable" if os.access(path, os.W_OK) else "read-only"


def _torch() -> dict[str, Any]:
    """Its version and devices, from a process of its own: a broken driver may end it."""
    try:
        done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            return {"problem": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
        version, devices = json.loads(done.stdout.strip().splitlines()[-1])
        return {"version": version, "devices": devices}
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        return {"problem": str(error)}


def _devices() -> list[str]:
    """What nvidia-smi lists."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _image() -> dict[str, str | None]:
    """The image that the launcher named, and what is wrong with it here."""
    digest, manifest = os.environ.get("PIREPRO_IMAGE_DIGEST"), os.environ.get("PIREPRO_IMAGE_MANIFEST")
    if not manifest:
        return {"digest": digest, "problem": None}
    try:
        importlib.import_module("pi_repro.provenance.image").check(manifest)
    except Exception as error:  # whatever is wrong with an image is what is asked for
        return {"digest": digest, "problem": str(error)}
    return {"digest": digest, "problem": None}


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

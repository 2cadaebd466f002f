"""One who waits for jobs on a cluster, as a process that a test can start twice and kill.

    python -m tests.cluster.waiter SITE.json FOLDER FINGERPRINT...

The stage is a stand-in that costs nothing: the site's runtime runs steps.sh in place of Python.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from pi_repro.launch.job import Job
from pi_repro.launch.places import Places
from pi_repro.launch.slurm.runner import SlurmRunner
from pi_repro.spec.experiment import Resources
from pi_repro.spec.site import Site

STEPS = Path(__file__).with_name("steps.sh")


def site(folder: Path, steps: int, **fields: Any) -> Site:
    """A site whose jobs run the stand-in."""
    words = ["env", f"STEPS={steps}", f"STORE={folder / 'store'}", "bash", str(STEPS)]
    plain = {"name": "testcluster", "partition": "low", "here": [], "poll_s": 0.5, "signal_s": 30}
    return Site.model_validate({**plain, "runtime": {"kind": "template", "command": words}, **fields})


def job(folder: Path, fingerprint: str, name: str = "draw@x-s0") -> Job:
    """A job for the stand-in."""
    counts = {"gpus": 0, "parallel": 1, "workers": 0, "prefetch": 1, "checkpoint_every": 1}
    resources = Resources.model_validate({**counts, "device_watts": 1.0, "grid_g_per_kwh": 0.0, "rates": {}})
    places = Places(folder, folder / "scratch", folder / "store", folder / "downloads", None)
    return Job(name, "draw", fingerprint, {"settings": {}}, {}, resources, places)


def main(settings: str, folder: Path, *fingerprints: str) -> None:
    """Wait for each in turn, beginning each at the same moment as every other waiter."""
    at = Site.model_validate(json.loads(Path(settings).read_text()))
    runner = SlurmRunner(at, job(folder, "").places)
    for number, fingerprint in enumerate(fingerprints):
        (folder / f"{number}-{time.monotonic_ns()}").touch()
        while len(list(folder.glob(f"{number}-*"))) < 2:
            pass
        handle = runner.start(job(folder, fingerprint))
        while (status := handle.poll()) is None:
            time.sleep(0.02)
        if status:
            sys.exit(f"{fingerprint} ended with {status}: {handle.why}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])

"""The data of a training, every byte of it checked before the first update.

Rule: shards are read in full once for each training; after a resume their sizes are enough, so
that a preempted job does not hash a terabyte again.
"""

from __future__ import annotations

from pathlib import Path

from pi_repro.data.shards import Shards
from pi_repro.files import write_atomic
from pi_repro.stages.context import StageContext


def open_shards(folder: Path, context: StageContext) -> Shards:
    """A dataset fit for training. Of several processes the first reads the shards, all compare their sizes.

    Raises:
        StateError: index or shard missing or damaged, by name.
    """
    shards = Shards.open(folder, context.data_root)
    mark = context.scratch / f"shards-verified-{shards.name}"
    verified = mark.is_file() and mark.read_text() == shards.sha256
    context.log.info("checking %d shards of %s%s", len(shards.shards), shards.name, ": sizes" if verified else "")
    chief = context.processes.rank == 0
    shards.verify(contents=chief and not verified)
    if chief:
        write_atomic(mark, shards.sha256.encode())
    return shards

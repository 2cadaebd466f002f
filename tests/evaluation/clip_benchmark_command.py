"""clip_benchmark's command for models whose config is in a file: MODEL.json, then its own arguments.

clip_benchmark 1.6.2 turns a one-element array into a float, which numpy 2.4 refuses; `repair` runs its own
source with that one conversion spelled out, so that what is compared with remains its arithmetic.
"""

from __future__ import annotations

import inspect
import sys

import open_clip
import torch
from clip_benchmark.metrics import zeroshot_classification

_CONVERSION = ".cpu().numpy())"
_SOURCE = inspect.getsource(zeroshot_classification.accuracy)


def repair() -> None:
    """Make `accuracy` work under any numpy."""
    assert _SOURCE.count(_CONVERSION) == 1, "clip_benchmark is another version than the one compared with"
    exec(_SOURCE.replace(_CONVERSION, ".cpu().numpy().item())"), vars(zeroshot_classification))


if __name__ == "__main__":
    repair()
    torch.set_num_threads(1)
    open_clip.add_model_config(sys.argv.pop(1))
    from clip_benchmark.cli import main

    main()

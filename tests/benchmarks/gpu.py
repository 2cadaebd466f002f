"""Training on a GPU: exact, fast and open_clip with its best flags, one after the other in one run.

    python -m tests.benchmarks.gpu                       ViT-B/32, bf16, 4,096 pairs by micro-batches of 512
    python -m tests.benchmarks.gpu --device cpu --tiny   every line of this file, where there is no GPU

Rule: synthetic batches that lie on the device already, so that the step alone is measured; each contender in
a process of its own with the whole memory; ours is `training.loop.train` with everything it does an update, theirs
`open_clip_train.train.train_one_epoch` in the quickest of several settings, with torch.compile, TF32 and a
fused AdamW, which its command line does not even ask for. The contenders run forwards, then backwards, and each
figure is the median over both. Of exact mode the files of two runs must be the same bytes, and those
of a run that was killed with kill -9 and resumed.

MFU counts what the mathematics needs, forward and twice that backward: 3 x 14.78 GFLOPs a pair for ViT-B/32
(open_clip's docs/model_profile.csv; torch's counter agrees), never a forward pass that is repeated to save memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .rows import Row, row
from .workers import FREE, PINNED, ROOT

#: Dense bf16 FLOPs a second by what a device's name contains; from NVIDIA's data sheets.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10G": 70e12}
_MODULE = "tests.benchmarks.gpu"  # __name__ is another when this is the command
_WARM = 4  # updates that don't count: compilation, the allocator's first steps
_KILLED_AFTER = 5


@dataclass(frozen=True)
class Shape:
    """What is trained.

    Attributes:
        model: open_clip's name.
        size: of images in pixels.
        length: of captions in tokens.
        batch: pairs of an update.
        micro_batch: pairs of our forward passes.
        updates: of one run.
        flops: forward, a pair.
    """

    model: str
    size: int
    length: int
    batch: int
    micro_batch: int
    updates: int
    flops: float


#: torch.utils.flop_counter counts as many for both.
B32 = Shape("ViT-B-32", 224, 77, 4096, 512, 12, 14.78e9)
TINY = Shape("pi-demo-64", 64, 16, 64, 16, 8, 6.72e6)

#: open_clip's settings by name: precision, batches its feature cache accumulates, gradient checkpointing.
_THEIRS = {
    "amp_bf16": ("amp_bf16", False, False),
    "amp_bf16 accumulated": ("amp_bf16", True, False),
    "amp_bf16 checkpointed": ("amp_bf16", False, True),
    "pure_bf16": ("pure_bf16", False, False),
    "pure_bf16 accumulated": ("pure_bf16", True, False),
}
#: Of these, enough to run every line at tiny scale: compiling is what takes long there.
_TRIED = ("pure_bf16", "amp_bf16 accumulated")
_OURS = ("exact", "fast")


def measure(device: str = "cuda", shape: Shape = B32) -> list[Row]:
    """The rows; without a CUDA device they say that nothing was measured."""
    what = f"{shape.model}, bf16, {shape.batch:,} pairs by micro-batches of {shape.micro_batch}, one GPU"
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return [row(f"{what}: not measured: no CUDA device", None, None, "images/s", target) for target in _TARGETS]
        name = torch.cuda.get_device_name()
        what = f"{what} ({name})"
    with tempfile.TemporaryDirectory() as folder:
        contenders = [*_OURS, *(_TRIED if shape is TINY else _THEIRS)]
        times: dict[str, list[float]] = {}
        for turn, order in enumerate((contenders, contenders[::-1])):
            for contender in order:
                found = _run(contender, device, shape, Path(folder, f"{contender}-{turn}"))
                if found is None:
                    contenders = [each for each in contenders if each != contender]
                else:
                    times.setdefault(contender, []).extend(found)
        speed = {contender: shape.batch / statistics.median(found) for contender, found in times.items()}
        identical = _identical(device, shape, Path(folder))
    for contender, each in speed.items():
        print(f"{contender}: {each:,.1f} images/s", file=sys.stderr)
    return _rows(what, speed, identical, shape, _peak(device))


_TARGETS = ("exact >= 0.9 x fast", "fast >= 1.3 x open_clip", "2 of 2")


def _rows(what: str, speed: dict[str, float], identical: int, shape: Shape, peak: float | None) -> list[Row]:
    best = max((name for name in speed if name in _THEIRS), key=lambda name: speed[name], default=None)
    exact, fast = speed.get("exact"), speed.get("fast")
    theirs = speed[best] if best else None
    against = f"open_clip, {best}, compiled" if best else "open_clip, which ran out of memory"
    rows = [
        row(f"{what}: exact, against fast", exact, fast, "images/s", _TARGETS[0], better="more"),
        row(f"{what}: fast, against {against}", fast, theirs, "images/s", _TARGETS[1], better="more"),
        row(f"{what}: exact, against {against}", exact, theirs, "images/s", "", better="more"),
    ]
    if peak:
        for name, figure in (("exact", exact), ("fast", fast)):
            mfu = [100 * 3 * shape.flops * each / peak if each else None for each in (figure, theirs)]
            rows.append(row(f"{what}: MFU, {name}, against {against}", mfu[0], mfu[1], "%", "", better="more"))
    rows.append(
        row(f"{what}: exact, reruns with the same bytes (one killed and resumed)", identical, None, "of 2", "2")
    )
    return rows


def _peak(device: str) -> float | None:
    if device != "cuda":
        return 1e12  # a round number, so that every line runs
    import torch

    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def _command(contender: str, device: str, shape: Shape, folder: Path) -> list[str]:
    tiny = ["--tiny"] if shape is TINY else []
    return [sys.executable, "-m", _MODULE, "--device", device, *tiny, "--as", contender, "--folder", str(folder)]


def _environment(contender: str) -> dict[str, str]:
    return PINNED if contender == "exact" else FREE


def _run(contender: str, device: str, shape: Shape, folder: Path) -> list[float] | None:
    """Seconds of each update that counts; None where memory did not suffice.

    Raises:
        RuntimeError: it failed for another reason.
    """
    done = subprocess.run(
        _command(contender, device, shape, folder),
        cwd=ROOT,
        env=_environment(contender),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        if "OutOfMemoryError" in done.stderr or "out of memory" in done.stderr:
            print(f"{contender}: out of memory", file=sys.stderr)
            return None
        raise RuntimeError(f"{contender} failed:\n{done.stderr[-4000:]}")
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("update ")][_WARM:]


def _identical(device: str, shape: Shape, folder: Path) -> int:
    """How many of two more runs of exact mode gave the same files as the first: one plain, one killed and resumed."""
    first, again, killed = folder / "exact-0", folder / "exact-1", folder / "exact-killed"
    command = _command("exact", device, shape, killed)
    process = subprocess.Popen(
        command, cwd=ROOT, env=PINNED, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        seen += line.startswith("update ")
        if seen == _KILLED_AFTER:
            break
    process.kill()
    process.wait()
    assert seen == _KILLED_AFTER, "it ended before it could be killed"
    assert not (killed / "out" / "training.json").exists()
    _run("exact", device, shape, killed)
    return sum(_digest(first / "out") == _digest(other / "out") for other in (again, killed))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _settings(shape: Shape) -> dict[str, Any]:
    import open_clip

    if shape is TINY:
        open_clip.add_model_config(ROOT / "specs" / "models" / f"{shape.model}.json")
    return {
        "name": shape.model,
        "architecture": open_clip.get_model_config(shape.model),
        "initialization": "open_clip",
        "logit_scale_init": 2.659,
        "logit_scale_max": 100.0,
    }


def _ours(mode: Any, device: str, shape: Shape, folder: Path) -> None:
    from .ours import pretrain
    from .pairs import Stored, synthetic

    parts = synthetic(2, shape.batch, shape.size, shape.length)
    source = Stored([(images.to(device), texts.to(device)) for images, texts in parts])
    begun = time.perf_counter()

    def tell(done: int, total: int, unit: str, note: str = "") -> None:
        # The update's loss was read by now, and with it everything that the device had to do.
        nonlocal begun
        print(f"update {time.perf_counter() - begun}", flush=True)
        begun = time.perf_counter()

    pretrain(
        _settings(shape),
        source,
        shape.micro_batch,
        shape.updates // 2,
        folder,
        tell,
        mode=mode,
        device=device,
        precision="bf16",
        checkpoint_every=3 if folder.name.endswith("killed") else 10**9,
    )


def _theirs(setting: str, device: str, shape: Shape) -> None:
    import open_clip
    import torch
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    from .pairs import synthetic
    from .step import Loader, open_clip_adamw

    precision, accumulated, checkpointed = _THEIRS[setting]
    if device == "cuda":
        # As open_clip_train.main sets them.
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    parts = shape.batch // shape.micro_batch if accumulated else 1
    _settings(shape)
    torch.manual_seed(0)
    model = open_clip.create_model(shape.model, precision=precision, device=device, output_dict=True)
    if checkpointed:
        model.set_grad_checkpointing()
    optimizer = open_clip_adamw(model, fused=True)
    compiled = torch.compile(model)
    kind = open_clip.get_input_dtype(precision)
    batches = [
        (piece.to(device).div_(127.5).sub_(1).to(kind), words.to(device))
        for images, texts in synthetic(2, shape.batch, shape.size, shape.length)
        for piece, words in zip(images.float().chunk(parts), texts.chunk(parts), strict=True)
    ]
    arguments = SimpleNamespace(
        device=device,
        precision=precision,
        distill=False,
        accum_freq=parts,
        skip_scheduler=False,
        horovod=False,
        grad_clip_norm=None,
        rank=0,
        world_size=1,
        batch_size=shape.batch // parts,
        log_every_n_steps=10**6,
        wandb=False,
    )
    schedule = cosine_lr(optimizer, 1e-3, 20, 10**6)
    data = {"train": Loader(batches, steps=parts, batch=shape.batch // parts)}
    loss = open_clip.ClipLoss()
    for _ in range(shape.updates):
        begun = time.perf_counter()
        train_one_epoch(compiled, data, loss, 0, optimizer, None, schedule, None, arguments)
        if device == "cuda":
            torch.cuda.synchronize()
        print(f"update {time.perf_counter() - begun}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--as", dest="contender", choices=[*_OURS, *_THEIRS])
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    shape = TINY if given.tiny else B32
    if given.contender in _OURS:
        _ours(given.contender, given.device, shape, given.folder)
    elif given.contender:
        _theirs(given.contender, given.device, shape)
    else:
        for each in measure(given.device, shape):
            print(json.dumps(each))


if __name__ == "__main__":
    main()

"""The README of a crate: what it holds, how to check it, how to compute it again. Text alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pi_repro.spec.experiment import Experiment

from .crate import Run

_TEXT = """\
# {title}

{notice}

An experiment computed by `pi_repro`, with everything needed to check it or compute it again.
It is an RO-Crate: `ro-crate-metadata.json` tells every file's meaning, format and sha256, and which
execution of which code made it. Folders stand as in a checkout of pi_repro.

| where | what |
|---|---|
| `{spec}`, `specs/` | the recipe: one file, and the cards of data and model that it names |
| `reports/{name}/index.html` | tables and figures; `report.md` the same as text |
| `results/{name}/` | each model's metrics, and its answer to every single item |
| `artifacts/{name}/` | trainings: settings, curves, and the ledger with a checksum of each tensor at each update |
| `provenance/` | a file a stage: code, packages, processor, times, digest of its outputs |
| `manifests/` | a file a stage: settings, digests of its inputs, sha256 of every output file, packed or not |
| `data/*/card.json` | what was fetched, from where, under which licence; the data are not packed |
| `code/` | the code at each commit that ran |

{weights}

## Check the files

    sha256sum -c SHA256SUMS

## Compute it again

{clone}

    cp -r CRATE/specs . && make env
    pirepro run {spec}
    diff -r CRATE/reports/{name} reports/{name}       # nothing differs
    diff -r CRATE/results/{name} results/{name}

The bits are promised for the same lock, Python minor version ({python}) and device model ({devices}).
`pirepro verify STAGE` computes one stage again and tells the first update and tensor that differ.
{code}"""


def readme(experiment: Experiment, spec: str, runs: Sequence[Run], code: Mapping[str, str], *, weights: bool) -> str:
    """The text.

    Args:
        experiment: what was computed.
        spec: path of its recipe in the crate.
        runs: its stages in order; the last one's commit is the one to check out.
        code: commit -> archive of its code.
        weights: whether weights and states are packed.
    """
    packed = "Weights and full states of training are packed."
    left = "Weights and full states of training are not packed; their digests stand in `manifests/`."
    return _TEXT.format(
        title=experiment.title,
        notice=experiment.notice or "",
        name=experiment.name,
        spec=spec,
        weights=packed if weights else left,
        clone=_clone(_commit(runs[-1]), code),
        python=_all(".".join(str(run.record["python"]).split(".")[:2]) for run in runs),
        devices=_all(str(name) for run in runs for name in run.record.get("gpus") or [run.record["cpu"]]),
        code=_code(runs),
    )


def _clone(commit: str, code: Mapping[str, str]) -> str:
    unpacked = f"`{code[commit]}` unpacked (then `git init`, which DVC asks for)" if commit in code else ""
    clone = "" if commit.startswith("commit-") else f"a clone of pi_repro at commit `{commit}`"
    return f"In {' or '.join(filter(None, (clone, unpacked))) or 'a clone of pi_repro'}:"


def _commit(run: Run) -> str:
    return str(run.record.get("git", {}).get("commit") or "unknown")


def _code(runs: Sequence[Run]) -> str:
    """What is not plain: several commits, or code that no commit holds."""
    lines = []
    commits = list(dict.fromkeys(_commit(run) for run in runs))
    if len(commits) > 1:
        lines.append(f"Stages were computed at {len(commits)} commits; each names its own in `provenance/`.")
    if changed := [run.name for run in runs if run.record.get("git", {}).get("dirty")]:
        lines.append(
            f"{len(changed)} of {len(runs)} stages ran with uncommitted changes, whose digest is `git.diff` in "
            f"`provenance/`: {', '.join(changed)}."
        )
    if any(commit.startswith("commit-") for commit in commits):
        lines.append(
            "Prepared for anonymous review: authors, commits and job numbers are withheld. `commit-1`, `commit-2` and\n"
            "so on tell which stages shared a commit; the real ids are given after review."
        )
    return "\n" + "\n\n".join(lines) + "\n" if lines else ""


def _all(values: object) -> str:
    return ", ".join(dict.fromkeys(values))  # type: ignore[call-overload]

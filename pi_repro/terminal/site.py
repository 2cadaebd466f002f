"""Sites on the terminal: the list, one in full, and the questions from which a new one is written."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.prompt import Prompt
from rich.table import Table
from rich.text import Text

from pi_repro.errors import RequestError
from pi_repro.launch.slurm import probe, proposal, sites
from pi_repro.launch.slurm.probe import Found
from pi_repro.launch.slurm.proposal import Wishes
from pi_repro.spec.site import Site
from pi_repro.terminal.show import line

#: What a person types for "none of these".
_NONE = "-"

Prompter = Callable[[str, Sequence[str], str | None], str | None]


def listing(workspace: Path) -> None:
    """The workspace's sites, a line each, and which one is chosen."""
    chosen, names = sites.chosen(workspace), sites.names(workspace)
    table = _table()
    for name in names:
        mark = Text("*" if name == chosen else " ", style="green")
        try:
            site = sites.load(name, workspace)
            table.add_row(mark, name, Text(f"partition {site.partition or 'by default'}"), Text(_runtime(site)))
        except RequestError as error:
            table.add_row(mark, name, Text("wrong", style="red"), Text(str(error).splitlines()[0]))
    _console().print(table)
    if not names:
        line(f"no sites in {sites.folder(workspace)}; on a login node: pirepro site init NAME")
    elif chosen is None:
        line("none is chosen: jobs run here; choose one with `pirepro site use NAME`")
    elif chosen not in names:
        line(f"chosen: {chosen}")


def show(site: Site) -> None:
    """Every field of a site with its value and what it means."""
    table = _table()
    for field, info in type(site).model_fields.items():
        if field not in ("runtime", "name"):
            table.add_row(field, _text(getattr(site, field)), Text(info.description or "", style="dim"))
    for field, info in type(site.runtime).model_fields.items():
        table.add_row(
            f"runtime.{field}", _text(getattr(site.runtime, field)), Text(info.description or "", style="dim")
        )
    line(f"site {site.name}")
    _console().print(table)


def init(workspace: Path, name: str, yes: bool = False) -> Path:
    """Look around on a login node, ask what can't be known, write slurm/sites/NAME.yaml; returns it.

    Args:
        workspace: the clone.
        name: of the new site.
        yes: ask nothing and take what is likely.

    Raises:
        RequestError: the name is taken or none, or there is no terminal to ask on.
        StateError: there is no SLURM here.
    """
    sites.new(workspace, name)
    if not yes and not sys.stdin.isatty():
        raise RequestError("there is no terminal to ask on", todo=f"pirepro site init {name} --yes, then edit the file")
    found = probe.probe(workspace)
    wishes = proposal.likely(found)
    if not yes:
        wishes = ask(found, wishes, _prompt)
    path = sites.write(workspace, name, proposal.text(name, found, wishes))
    line(f"wrote {path}")
    line(f"  partition {wishes.partition}, account {wishes.account or 'by default'}, runtime {wishes.runtime}")
    if "shared" not in (kind := probe.filesystem(workspace)):
        line(f"  note: this clone lies on {kind}: every node must see it under the same path")
    line(f"  next: look at it, then pirepro doctor --site {name}, then pirepro site use {name}")
    return path


def ask(found: Found, likely: Wishes, prompt: Prompter) -> Wishes:
    """Ask for each wish, with what is likely as the default.

    Args:
        found: what the cluster is like.
        likely: the defaults.
        prompt: (question, allowed answers or none for free text, default) -> answer; None where there is none.
    """
    names = [part.name for part in found.partitions]
    for part in found.partitions:
        line(f"  {part.name}: {proposal.about(part)}")
    partition = prompt("Partition of jobs with GPUs", names, likely.partition)
    cpu_partition = prompt("Partition of jobs without GPU (- for the same)", names, likely.cpu_partition)
    account = prompt("Account to charge (- for your default)", found.accounts.names, likely.account)
    for path, kind in found.roots:
        line(f"  {path}: {kind}")
    scratch = _folder(prompt, "Folder for scratch, shared by all nodes (- for .pirepro in this clone)", likely.scratch)
    data_root = _folder(prompt, "Folder for large data sets (- for none)", likely.data_root)
    runtime = prompt("Container runtime", [*proposal.kinds(found), "none"], likely.runtime) or "none"
    image = None
    if runtime != "none":
        made = proposal.image_for(runtime, found)
        image = prompt("Image that `make image` made: file, folder or reference (- for none yet)", (), made)
    if runtime != "none" and image is None:
        line("  no image yet: the site takes this host's Python until its file names one")
        runtime = "none"
    return replace(
        likely,
        partition=partition,
        cpu_partition=cpu_partition if cpu_partition != partition else None,
        account=account,
        scratch=scratch,
        data_root=data_root,
        runtime=runtime,
        image=image,
    )


def _folder(prompt: Prompter, question: str, default: str | None) -> str | None:
    while (answer := prompt(question, (), default)) is not None and answer[0] not in "/~$":
        line("  begin it with / or ~ or $NAME")
    return answer


def _prompt(question: str, allowed: Sequence[str], default: str | None) -> str | None:
    none = default is None or f"({_NONE} for" in question
    answer = Prompt.ask(
        question,
        choices=[*allowed, *([_NONE] if none else [])] if allowed else None,
        default=default or _NONE,
        show_choices=len(allowed) < 9,
    )
    return None if answer.strip() in ("", _NONE) else answer.strip()


def _runtime(site: Site) -> str:
    return site.runtime.kind if site.runtime.image is None else f"{site.runtime.kind}, {site.runtime.image}"


def _text(value: Any) -> Text:
    if value in (None, (), {}):
        return Text("-", style="dim")
    if isinstance(value, dict):
        return Text("\n".join(f"{key}: {item}" for key, item in value.items()))
    if isinstance(value, tuple):
        return Text("\n".join(map(str, value)))
    return Text(str(value).lower() if isinstance(value, bool) else str(value))


def _table() -> Table:
    return Table(box=None, show_header=False, padding=(0, 2, 0, 0))


def _console() -> Console:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 110
    return Console(width=width, highlight=False)

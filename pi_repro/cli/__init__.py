"""The door: Typer commands, nothing else. Each imports what it needs when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from pi_repro import __version__
from pi_repro.cli import data, look, results, running, site, upkeep
from pi_repro.errors import PireproError

app = typer.Typer(
    name="pirepro",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # The decorated help loads Markdown, a highlighter and a traceback printer: more than half of the start.
    rich_markup_mode=None,
    context_settings={"max_content_width": 110},
    help="Rebuild, check and vary the Perceptual-Initialization experiment, bit for bit.",
)

_COMMANDS: tuple[Callable[..., None], ...] = (
    *(look.validate, look.plan, look.status, look.explain),
    *(running.run, running.stage, running.attach, running.logs, running.cancel),
    *(upkeep.enable, upkeep.disable, look.doctor),
    *(results.verify, results.diff, results.compare, results.export, results.package, results.evaluate, upkeep.gc),
)
for _command in _COMMANDS:
    app.command()(_command)
app.add_typer(data.app)
app.add_typer(site.app)


def main() -> None:
    """Run the command line; errors that a user can act on become one message and an exit status."""
    if "PIREPRO_DRIVER_END" in os.environ:  # as background.VARIABLE: a driver without a terminal
        from pi_repro.launch import background

        ended, status = background.begin(), 1
        try:
            status = _status()
        finally:
            ended(status)
    else:
        status = _status()
    sys.exit(status)


def _status() -> int:
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except PireproError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    except BrokenPipeError:
        sys.stderr.close()
    return 0


def _version(value: bool) -> None:
    if value:
        typer.echo(f"pirepro {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None: ...

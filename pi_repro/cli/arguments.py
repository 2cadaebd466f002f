"""What several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Spec = Annotated[Path, typer.Argument(help="A spec: specs/demo.yaml, or its name.", show_default=False)]
StageName = Annotated[str, typer.Argument(help="As `pirepro plan` lists it: pretrain@demo-pi-s0.", show_default=False)]
SiteName = Annotated[str | None, typer.Option("--site", metavar="NAME", help="A cluster; the chosen one by default.")]

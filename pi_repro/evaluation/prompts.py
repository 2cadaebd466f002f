"""Class names and prompt templates of a zero-shot set.

Rule: they live beside the images, are read exactly as clip_benchmark reads them, and no code overrides them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import StateError
from pi_repro.files import sha256_file

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"


@dataclass(frozen=True)
class Prompts:
    """What a class is called and how it is asked for; the hashes are those of the two files' bytes."""

    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    classnames_sha256: str
    templates_sha256: str

    @classmethod
    def read(cls, folder: Path) -> Prompts:
        """Read both files of a set's folder.

        Raises:
            StateError: when one is missing, empty or no UTF-8, or a template can't take a class name.
        """
        templates = _lines(folder / TEMPLATES)
        for number, template in enumerate(templates, start=1):
            _check(template, f"{folder / TEMPLATES}:{number}")
        return cls(
            classnames=_lines(folder / CLASSNAMES),
            templates=templates,
            classnames_sha256=sha256_file(folder / CLASSNAMES),
            templates_sha256=sha256_file(folder / TEMPLATES),
        )

    def texts(self) -> list[str]:
        """All prompts, class by class: C * T strings."""
        return [template.format(c=name) for name in self.classnames for template in self.templates]


def _lines(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StateError("a classification set needs this file", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise StateError("file is no UTF-8 text", where=str(path), given=str(error)) from None
    lines = tuple(line.strip() for line in text.splitlines())
    if not lines or not all(lines):
        raise StateError("one name or template a line, and no line empty", where=str(path))
    return lines


def _check(template: str, where: str) -> None:
    try:
        usable = template.format(c="\0") != template.format(c="\1")
    except (KeyError, IndexError, ValueError, AttributeError):
        usable = False
    if not usable:
        raise StateError("template takes no class name", where=where, given=template, allowed="text with {c}")

"""Errors that a user can act on.

Rule: whatever is wrong with a request, a file or a machine is raised as one of these and
reaches the terminal as one message without a traceback: where, what was given, what is
allowed, what to do next. Anything else that escapes is a defect of this package.
"""

from __future__ import annotations


class PireproError(Exception):
    """One message for the user, and the exit status that goes with it.

    Args:
        problem: what is wrong, in one sentence.
        where: file, line, field, stage or shard the problem was found in.
        given: what was found there.
        allowed: what would have been right.
        todo: the next thing to type or change.
    """

    exit_status = 1

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        given: object = None,
        allowed: str | None = None,
        todo: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = where
        self.given = given
        self.allowed = allowed
        self.todo = todo

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.problem}" if self.where else self.problem]
        if self.given is not None:
            lines.append(f"  given:   {self.given}")
        if self.allowed is not None:
            lines.append(f"  allowed: {self.allowed}")
        if self.todo is not None:
            lines.append(f"  to do:   {self.todo}")
        return "\n".join(lines)


class RequestError(PireproError):
    """The request is wrong: a spec, an argument, a name. Nothing was started."""

    exit_status = 2


class StateError(PireproError):
    """The data or the environment is wrong: a damaged shard, a missing device, a full disk."""

    exit_status = 3


class Interrupted(PireproError):
    """A stage was asked to stop, saved its state and can be resumed by running it again."""

    exit_status = 130

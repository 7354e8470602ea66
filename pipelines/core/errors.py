"""Define the errors that a command reports in one line, without a traceback."""

import contextlib
from collections.abc import Iterator

__all__ = ["StepError", "UserError", "user_errors"]


class UserError(Exception):
    """The user made a mistake: one line names the value and what to do instead. The command ends with exit code 2."""


class StepError(Exception):
    """A step cannot continue although the options are right: one line says why. The command ends with exit code 1."""


@contextlib.contextmanager
def user_errors(subject: str = "") -> Iterator[None]:
    """Turns a ValueError into a UserError. Only for calls whose ValueErrors mean that the user gave a wrong value.

    Args:
        subject: What the value is, to begin the message with.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(f"{subject}: {error}" if subject else str(error)) from error

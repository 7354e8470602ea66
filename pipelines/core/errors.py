"""Errors that a command tells in one line, without a traceback."""

import contextlib
from collections.abc import Iterator

__all__ = ["StepError", "UserError", "user_errors"]


class UserError(ValueError):
    """A mistake of the user's: one line that names the value and the way out. The command ends with exit code 2."""


class StepError(RuntimeError):
    """A step can't go on, through no mistake in its options: told in one line. The command ends with exit code 1."""


@contextlib.contextmanager
def user_errors(what: str = "") -> Iterator[None]:
    """Turns a ValueError of the library (a shape that does not fit, say) into a UserError, with `what` before it."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{what}: {error}" if what else str(error)) from error

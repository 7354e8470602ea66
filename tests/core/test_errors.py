"""pipelines/core/errors.py: mistakes of the user are distinguished from bugs."""

import pytest

from pipelines.core.errors import StepError, UserError, user_errors


def test_a_value_error_inside_becomes_a_mistake_of_the_user() -> None:
    with pytest.raises(UserError, match=r"^in_modes: bad$"), user_errors("in_modes"):
        raise ValueError("bad")
    with pytest.raises(UserError, match=r"^bad$"), user_errors():
        raise ValueError("bad")


@pytest.mark.parametrize("error", [UserError("mine"), StepError("mine"), KeyError("a bug"), RuntimeError("a bug")])
def test_all_other_errors_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, user_errors("prefix"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("error", [UserError, StepError])
def test_no_handler_for_bugs_catches_the_errors_of_a_command(error: type[Exception]) -> None:
    assert error.__bases__ == (Exception,)

"""pipelines/core/periodic.py: a function is called while the block runs, whatever it raises."""

import threading

import pytest

from pipelines.core.periodic import repeated


def test_calls_are_repeated_while_the_block_runs_and_never_after_it() -> None:
    calls: list[int] = []
    third = threading.Event()

    def call() -> None:
        calls.append(1)
        if len(calls) == 3:
            third.set()

    with repeated(call, 0.001):
        assert third.wait(60)
    num_calls = len(calls)
    threading.Event().wait(0.05)
    assert len(calls) == num_calls


def test_calls_end_where_the_block_raises() -> None:
    calls: list[int] = []
    with pytest.raises(KeyError), repeated(lambda: calls.append(1), 0.001):
        raise KeyError
    num_calls = len(calls)
    threading.Event().wait(0.05)
    assert len(calls) == num_calls


def test_each_type_of_error_is_logged_once_with_its_traceback_and_the_calls_continue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors = iter([OSError("no disk"), OSError("no disk"), KeyError("name"), OSError("no disk again")])
    succeeded = threading.Event()

    def call() -> None:
        for error in errors:
            raise error
        succeeded.set()

    with repeated(call, 0.001):
        assert succeeded.wait(60)
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [OSError, KeyError]
    assert caplog.text.count("no disk") == 1
    assert "Traceback" in caplog.text

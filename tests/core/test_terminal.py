"""pipelines/core/terminal.py: output of libraries goes to a file, and what is for people does not."""

import os
import sys

import pytest

from pipelines.core.terminal import output_to_file


def test_output_goes_to_the_file_and_not_to_standard_output_or_error(tmp_path, capfd):
    (tmp_path / "ray.log").write_text("of an earlier command\n", encoding="utf-8")
    with output_to_file(tmp_path / "ray.log") as stream:
        os.write(1, b"output of C++\n")
        os.write(2, b"error of C++\n")
        os.system("echo output of a child")
        stream.write("for a person\n")
    os.write(1, b"afterwards\n")
    assert capfd.readouterr() == ("afterwards\n", "for a person\n")
    written = (tmp_path / "ray.log").read_text(encoding="utf-8")
    assert written == "of an earlier command\noutput of C++\nerror of C++\noutput of a child\n"


def test_after_an_error_standard_output_and_error_are_restored(tmp_path, capfd):
    before = sys.stdout, sys.stderr
    with pytest.raises(ZeroDivisionError), output_to_file(tmp_path / "ray.log"):
        raise ZeroDivisionError
    assert (sys.stdout, sys.stderr) == before
    os.write(1, b"out\n")
    os.write(2, b"error\n")
    assert capfd.readouterr() == ("out\n", "error\n")

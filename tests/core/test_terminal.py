import os
import sys

import pytest

from pipelines.core.terminal import chatter_to


def test_chatter_goes_to_its_file_and_nothing_of_it_to_standard_output_or_error(tmp_path, capfd):
    (tmp_path / "ray.log").write_text("of an earlier command\n", encoding="utf-8")
    with chatter_to(tmp_path / "ray.log") as stream:
        os.write(1, b"out of C++\n")
        os.write(2, b"error of C++\n")
        os.system("echo of a child")
        stream.write("for a person\n")
    os.write(1, b"afterwards\n")
    assert capfd.readouterr() == ("afterwards\n", "for a person\n")
    chatter = (tmp_path / "ray.log").read_text(encoding="utf-8")
    assert chatter == "of an earlier command\nout of C++\nerror of C++\nof a child\n"


def test_an_error_inside_comes_out_and_everything_is_as_before(tmp_path, capfd):
    before = sys.stdout, sys.stderr
    with pytest.raises(ZeroDivisionError), chatter_to(tmp_path / "ray.log"):
        raise ZeroDivisionError
    assert (sys.stdout, sys.stderr) == before
    os.write(1, b"out\n")
    os.write(2, b"error\n")
    assert capfd.readouterr() == ("out\n", "error\n")

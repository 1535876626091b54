"""Numbers on the command line are checked where they are read."""

from __future__ import annotations

import pytest

from rwtrain.arguments import positive_int
from rwtrain.cli import main


def test_positive_numbers_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert positive_int("12") == 12
    for wrong, why in (("0", "less than 1"), ("-3", "less than 1"), ("many", "no whole number")):
        with pytest.raises(SystemExit) as error:
            main(["answer", "index", "docs", f"--words={wrong}", "--model", "m", "--out", "o"])
        assert error.value.code == 2
        shown = capsys.readouterr().err
        assert "--words" in shown
        assert why in shown

"""The table of faults names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TABLE = TESTS / "integration/test_faults.py"
ROWS = ast.get_docstring(ast.parse(TABLE.read_text(encoding="utf-8"))).splitlines()
ROWS = [row.strip("|").split("|") for row in ROWS if row.startswith("|")][2:]
"""What may happen, what must hold then, and where that is tested."""


def places(cell):
    """Yield a file and the beginning of a test's name, or "" for the whole file, for each test that a cell names."""
    for code in re.findall("`(.*?)`", cell):
        file, _, names = code.rpartition(": ") if ": " in code else (code, "", "") if code.endswith(".py") else ("", "", code)
        path = TABLE if not file else TESTS / file if "/" in file else TESTS / "integration" / file
        for name in names.split(", "):
            yield path, name


@pytest.mark.parametrize(("fault", "holds", "tests"), ROWS, ids=[row[0].strip() for row in ROWS])
def test_each_row_names_tests_that_exist(fault, holds, tests):
    if tests.strip() == "same":
        return
    named = list(places(tests))
    assert named
    for path, name in named:
        known = re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert known, path
        assert [test for test in known if (test.startswith(name[:-1]) if name.endswith("…") else test == name or not name)], name

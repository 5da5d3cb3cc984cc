"""The README says what the code does."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from rl_scaling_callback.formulas import BANDS
from rl_scaling_callback.keys import KEYS
from rl_scaling_callback.steady import DEFAULT_RULE

README = (Path(__file__).parents[2] / "README.md").read_text()


def key_table():
    rows = [f"| `{key.name}` | {key.unit} | {key.meaning} |" for key in KEYS]
    return "\n".join(["| key | unit | meaning |", "|---|---|---|", *rows])


def test_the_table_of_keys_is_the_contract():
    table = README.split("<!-- keys: begin -->\n")[1].split("\n<!-- keys: end -->")[0]
    assert table.strip() == key_table()


def test_every_option_is_documented_once_with_its_default():
    source = (Path(__file__).parents[2] / "rl_scaling_callback/callback.py").read_text()
    (init,) = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    options = README.split("## Options\n")[1].split("\n## ")[0]
    for option in (argument.arg for argument in init.args.kwonlyargs):
        (row,) = [line for line in options.splitlines() if line.startswith(f"| `{option}` |")]
        if hasattr(DEFAULT_RULE, option):
            assert f"| {getattr(DEFAULT_RULE, option):g} |" in row.replace("5.0", "5")


def test_bands_are_named_with_their_bounds():
    for lowest, name in BANDS[:-1]:
        assert re.search(rf"{lowest:.0f} (and more is )?{name}", README)


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_code_blocks_are_python(block):
    compile(inspect.cleandoc(block), "README.md", "exec")

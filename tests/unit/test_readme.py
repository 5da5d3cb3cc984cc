"""The README matches the code."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from rl_scaling_callback import __version__
from rl_scaling_callback.cli import main
from rl_scaling_callback.core.formulas import BANDS
from rl_scaling_callback.core.schema import KEYS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_explained_keys_match_the_schema():
    rows = re.findall(r"^\| `.*$", README.split("## The ten keys that matter")[1].split("\n## ")[0], re.MULTILINE)
    assert len(rows) == 10
    assert {*rows} <= {f"| `{key.name}` | {key.unit} | {key.meaning} |" for key in KEYS}


def test_it_is_short():
    assert len(README.splitlines()) <= 170


def test_every_option_is_documented_once_with_its_default():
    source = (ROOT / "rl_scaling_callback/callback.py").read_text(encoding="utf-8")
    (callback,) = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    (init,) = [node for node in callback.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    options = [argument.arg for argument in init.args.kwonlyargs]
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \|", README.split("## Options\n")[1].split("\n## ")[0], re.MULTILINE)
    documented = {
        option.strip("`"): default
        for names, defaults in rows
        for option, default in zip(names.split(", "), defaults.split(", "), strict=True)
    }
    assert [*documented] == options
    arguments = ast.get_docstring(callback).split("Args:\n")[1].split("\n\n")[0]
    assert re.findall(r"^    (\w+): ", arguments, re.MULTILINE) == options


def test_named_command_options_exist():
    known = {option for command in main.commands.values() for parameter in command.params for option in parameter.opts}
    ours = re.sub(r"`(tensorboard|ray start) .*?`", "", README)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours)) <= known


def test_named_files_exist():
    names = re.findall(r"\]\(([^)#]+)\)|`((?:tests|examples|\.ci)/[\w./-]+)`", README)
    places = {link or name for link, name in names if "://" not in link}
    assert places
    assert {place for place in places if not (ROOT / place).exists()} == set()


def numbers(release):
    return tuple(map(int, release.split(".")))


def test_python_and_ray_releases_match_the_package_and_ci():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    rows = re.findall(r"^(3\.\d+) (\d\.\d+)\.\d+$", (ROOT / ".ci/matrix").read_text(encoding="utf-8"), re.MULTILINE)
    python, *_ = sorted({python for python, _ in rows}, key=numbers)
    oldest, *_, newest = sorted({ray for _, ray in rows}, key=numbers)
    assert f"Ray {oldest} to {newest} and Python {python} " in README
    assert f'"ray[tune,rllib]>={oldest}"' in project
    assert f'requires-python = ">={python}"' in project
    assert f"\nray=={newest}." in (ROOT / ".ci/constraints.txt").read_text(encoding="utf-8")


def test_changelog_has_this_version():
    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_bands_are_named_with_their_bounds():
    for lowest, name in BANDS[:-1]:
        assert re.search(rf"{lowest:.0f} {name}", README)


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_code_blocks_are_python(block):
    compile(inspect.cleandoc(block), "README.md", "exec")

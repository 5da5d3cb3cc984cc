"""The README matches the code."""

import ast
import re
from pathlib import Path

from rl_scaling_callback import __version__
from rl_scaling_callback.cli import main
from rl_scaling_callback.core.formulas import BANDS
from rl_scaling_callback.core.schema import KEYS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(heading):
    """Return the first two cells of the rows of a section's table."""
    return re.findall(r"^\| (`.*?`) \| (.*?) \|", README.split(f"## {heading}")[1].split("\n## ")[0], re.MULTILINE)


def test_it_is_short_and_names_the_bands_with_their_bounds():
    assert len(README.splitlines()) <= 170
    assert {name for lowest, name in BANDS[:-1] if f"{lowest:.0f} {name}" not in README} == set()


def test_explained_keys_match_the_schema():
    named = [key for key in KEYS if f"\n| `{key.name}` | {key.unit} | {key.meaning} |" in README]
    assert len(named) == len(rows("The ten keys that matter")) == 10


def test_every_option_is_documented_once_with_its_default():
    source = (ROOT / "rl_scaling_callback/callback.py").read_text(encoding="utf-8")
    *_, callback = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    (init,) = [node for node in callback.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    options = [argument.arg for argument in init.args.kwonlyargs]
    documented = [
        option.strip("`")
        for names, defaults in rows("Options\n")
        for option, _ in zip(names.split(", "), defaults.split(", "), strict=True)
    ]
    assert documented == options
    arguments = ast.get_docstring(callback).split("Args:\n")[1].split("\n\n")[0]
    assert re.findall(r"^    (\w+): ", arguments, re.MULTILINE) == options


def test_named_files_and_command_options_exist():
    places = {link or name for link, name in re.findall(r"\]\(([^)#:]+)\)|`((?:tests|examples|\.ci)/[\w./-]+)`", README)}
    assert places
    assert {place for place in places if not (ROOT / place).exists()} == set()
    known = {option for command in main.commands.values() for parameter in command.params for option in parameter.opts}
    ours = re.sub(r"`(tensorboard|ray start) .*?`", "", README)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours)) <= known


def numbers(release):
    return tuple(map(int, release.split(".")))


def test_releases_match_the_package_ci_and_changelog():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tested = re.findall(r"^(3\.\d+) (\d\.\d+)\.\d+$", (ROOT / ".ci/matrix").read_text(encoding="utf-8"), re.MULTILINE)
    python = min((python for python, _ in tested), key=numbers)
    oldest, *_, newest = sorted({ray for _, ray in tested}, key=numbers)
    assert f"Ray {oldest} to {newest} and Python {python} " in README
    assert f'"ray[tune,rllib]>={oldest}"' in project
    assert f'requires-python = ">={python}"' in project
    assert f"\nray=={newest}." in (ROOT / ".ci/constraints.txt").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)

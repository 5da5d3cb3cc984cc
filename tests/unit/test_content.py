"""Labels of code and values: the same in every process, different if the code differs."""

import functools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from rl_scaling_callback import rllib
from rl_scaling_callback.rllib import content, plain


def made(source, name="made", **names):
    """Return the object `name` that `source` defines, as if it were a user's script."""
    space = {"__name__": "__main__", **names}
    exec(compile(source, "script.py", "exec"), space)
    return space[name]


def scaled(factor):
    return lambda value: value * factor


FUNCTION = "def made(x, y=1):\n    return x + y\n"
BASE = "class base:\n    def step(self): return {}\nclass made(base): pass"
CREATOR = "class Env:\n    def step(self): return {}\nmade = lambda config: Env(config)"
METHOD = "class made:\n    def step(self):\n        return 1\n"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (FUNCTION, "\n\n# moved\ndef made(a, b=1):\n    'Says something.'\n    return a + b\n"),
        (METHOD, "class made:\n    'Says something.'\n\n    def step(this):\n        # says something\n        return 1\n"),
    ],
)
def test_names_lines_comments_and_docstrings_are_ignored(one, other):
    assert plain(made(one)) == plain(made(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (FUNCTION, "def made(x, y=2):\n    return x + y\n"),
        (FUNCTION, "def made(x, y=1):\n    return x - y\n"),
        (FUNCTION, "def made(x, y=1):\n    return x + y + 1\n"),
        (METHOD, "class made:\n    def step(self):\n        return 2\n"),
        (METHOD, "class made:\n    rate = 2\n    def step(self):\n        return 1\n"),
        (BASE.format(1), BASE.format(2)),
        ("rate = 1\ndef made(): return rate", "rate = 2\ndef made(): return rate"),
        ("def f(): return 1\ndef made(): return f()", "def f(): return 2\ndef made(): return f()"),
        (CREATOR.format(1), CREATOR.format(2)),
        ("def made():\n    def f(): return 1\n    return f", "def made():\n    def f(): return 2\n    return f"),
        ("def made():\n    class C:\n        n = 1\n    return C", "def made():\n    class C:\n        n = 2\n    return C"),
        ("def made(): import json", "def made(): import csv"),
    ],
)
def test_behaviour_of_code_counts(one, other):
    assert plain(made(one)) == plain(made(one))
    assert plain(made(one)) != plain(made(other))


def test_constants_equal_to_the_line_of_a_nested_class_count():
    source = "{}def made():\n    class C:\n        n = {}\n    return C"
    made_on_line_2, made_on_line_7 = (plain(made(source.format("\n" * (line - 2), line))) for line in (2, 7))
    assert made_on_line_2 != made_on_line_7
    assert made_on_line_2 == plain(made(source.format("\n" * 5, 2)))
    # True == 1
    labels = [
        content.label(compile(f"class C: flag = {flag}", "script.py", "exec").co_consts[0], plain) for flag in (True, False, 1.0)
    ]
    assert len(set(labels)) == 3


def test_closure_values_arguments_and_state_count():
    for one, same, other in (
        (scaled(2), scaled(2), scaled(3)),
        (functools.partial(scaled, 2), functools.partial(scaled, 2), functools.partial(scaled, 3)),
        (SimpleNamespace(a=1), SimpleNamespace(a=1), SimpleNamespace(a=2)),
        ({"o": SimpleNamespace(a=scaled(2))}, {"o": SimpleNamespace(a=scaled(2))}, {"o": SimpleNamespace(a=scaled(3))}),
    ):
        assert plain(one) == plain(same) != plain(other)


def test_installed_packages_are_labelled_by_name_and_version():
    assert plain(gym.Env) == "gymnasium.core.Env"
    assert plain(json.dumps) == "json.dumps"
    assert plain(np.zeros).partition(" ") == ("numpy.zeros", " ", np.__version__)


def test_module_is_labelled_without_importing_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "some_envs").mkdir()
    (tmp_path / "some_envs/__init__.py").write_text("raise RuntimeError")
    labels = set()
    for step in (1, 1, 2):
        (tmp_path / "some_envs/slow.py").write_text(f"raise RuntimeError\nSTEP = {step}  # {len(labels)}\n")
        content.module_label.cache_clear()
        labels.add(content.module_label("some_envs.slow"))
    assert len(labels) == 2
    assert content.module_label("no_such_module") == "no_such_module"


def test_large_values_are_hashed_and_arrays_equal_lists():
    array = np.arange(100_000.0)
    assert plain(array) == plain(array.tolist()) != plain(array + 1)
    for value in (array, array.reshape(100, 1000), "x" * 100_000, list(map(str, range(100_000))), bytes(100_000)):
        assert len(json.dumps(plain(value))) < 100
    assert plain({"a": list(range(5))}) == {"a": [0, 1, 2, 3, 4]}


def test_objects_that_differ_in_every_run_are_ignored():
    class Holder:
        def __init__(self, seed):
            self.rng = np.random.default_rng(seed)
            self.where = object()

    assert plain(Holder(1)) == plain(Holder(2))
    space, used = gym.spaces.Discrete(3), gym.spaces.Discrete(3)
    used.sample()
    assert plain({"space": space}) == plain({"space": used})


def test_pickled_copy_in_another_process_has_the_same_label(tmp_path):
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    source = (
        "import gymnasium as gym\nRATE = 0.1\ndef helper(x): return x in {'a', 'b', 'c'} and RATE\n"
        "class Env(gym.Env):\n    def __init__(self, config): super().__init__(); self.x = helper('a')\n"
        "    def step(self, action): return Env, [lambda: self]\n"
        "made = [Env, lambda config: Env(config), (lambda k: lambda x: x * k)(3), Env({})]\n"
    )
    sent = made(source)
    file = tmp_path / "sent.pkl"
    file.write_bytes(cloudpickle.dumps(sent))
    code = (
        "import json, pickle, sys\nfrom rl_scaling_callback.rllib import plain\n"
        f"print(json.dumps(plain(pickle.loads(open({str(file)!r}, 'rb').read()))))"
    )
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(rllib.__file__).parents[2])},
        )
        assert json.loads(there.stdout) == plain(sent)

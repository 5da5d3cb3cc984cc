"""Descriptions of code and values: the same in every process, different if the content differs."""

import copy
import functools
import itertools
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import gymnasium as gym
import numpy as np
import pytest

import rl_scaling_callback
from rl_scaling_callback.rllib import content
from rl_scaling_callback.rllib.configs import read_facts
from rl_scaling_callback.rllib.content import plain


def made(source, name="made", **names):
    """Return the object `name` that `source` defines, as if it were a user's script."""
    space = {"__name__": "__main__", **names}
    exec(compile(source, "script.py", "exec"), space)
    return space[name]


def scaled(factor):
    return lambda value: value * factor


FUNCTION = "def made(x, y=1):\n    return x + y\n"
METHOD = "class made:\n    def step(self):\n        return 1\n"
BASE = "class base:\n    def step(self): return {}\nclass made(base): pass"
NESTED = "def made():\n    class C:\n        {}\n        n = 1\n    return C"
VALUE = "from decimal import Decimal\nvalue = {}\ndef made(): return value"
CREATOR = "class Env:\n    def step(self): return {}\nmade = lambda config: Env(config)"
WRAPPERS = ["@staticmethod", "@property", "import functools\n@functools.cache", "import functools\n@functools.cached_property"]


def test_names_lines_comments_and_docstrings_are_ignored():
    for one, same in [
        (FUNCTION, "\n\n# moved\ndef made(a, b=1):\n    'Says something.'\n    return a + b\n"),
        (METHOD, "class made:\n    'Says something.'\n\n    def step(this):\n        # says something\n        return 1\n"),
        (NESTED.format(""), "\n\n" + NESTED.format("'Says something.'")),
    ]:
        assert plain(made(one)) == plain(made(same))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (FUNCTION, "def made(x, y=2):\n    return x + y\n"),
        (FUNCTION, "def made(x, y=1):\n    return x - y\n"),
        (METHOD, "class made:\n    def step(self):\n        return 2\n"),
        (METHOD, "class made:\n    rate = 2\n    def step(self):\n        return 1\n"),
        (BASE.format(1), BASE.format(2)),
        *((VALUE.format(one), VALUE.format(other)) for one, other in [(1, 2), ("Decimal(1)", "Decimal(2)"), ("Decimal", "int")]),
        ("def f(): return 1\ndef made(): return f()", "def f(): return 2\ndef made(): return f()"),
        (CREATOR.format(1), CREATOR.format(2)),
        ("def made():\n    def f(): return 1\n    return f", "def made():\n    def f(): return 2\n    return f"),
        *((NESTED.format(f"x = {one}"), NESTED.format(f"x = {other}")) for one, other in [(1, 2), (1, True), (1, 1.0), (3, 4)]),
        ("def made(): import json", "def made(): import csv"),
        *((f"{wrapper}\ndef made(self): return 1", f"{wrapper}\ndef made(self): return 2") for wrapper in WRAPPERS),
    ],
)
def test_behaviour_of_code_counts(one, other):
    assert plain(made(one)) == plain(made(one))
    assert plain(made(one)) != plain(made(other))


def test_installed_packages_are_labelled_by_name_and_version():
    named = {gym.Env: "gymnasium.core.Env", json.dumps: "json.dumps", np.zeros: f"numpy.zeros {np.__version__}"}
    assert {code: plain(code) for code in named} == named


def test_module_is_labelled_without_importing_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "some_envs").mkdir()
    (tmp_path / "some_envs/__init__.py").write_text("raise RuntimeError")
    labels = []
    for step in (1, 1, 2):
        (tmp_path / "some_envs/slow.py").write_text(f"raise RuntimeError\nSTEP = {step}\n")
        content.module_label.cache_clear()
        labels.append(content.module_label("some_envs.slow"))
    assert labels[0] == labels[1] != labels[2]
    assert content.module_label("no_such_module") == "no_such_module"


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", ">f8", "datetime64[s]", "<U3", "complex64"])
def test_arrays_are_hashed_in_any_memory_layout(dtype):
    array = np.arange(120_000).reshape(300, 400).astype(dtype)
    assert plain(array) == plain(array.copy(order="F")) == plain(np.repeat(array, 2, axis=1)[:, ::2])
    assert plain(array) != plain(array.T)
    other = array.copy()
    other[-1, -1] = array[0, 1] if array[-1, -1] != array[0, 1] else array[0, 2]
    assert plain(other) != plain(array)


@dataclass
class Spec:
    module: type
    width: int = 1


def python_values():
    yield scaled(2), scaled(3)
    yield functools.partial(scaled, 2), functools.partial(scaled, 3)
    yield Spec(Spec), Spec(Spec, 2)
    yield Decimal("1.1"), Decimal("1.2")
    yield Fraction(1, 3), Fraction(1, 4)
    yield datetime(2020, 1, 1, tzinfo=timezone.utc), datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    yield ZoneInfo("UTC"), ZoneInfo("GMT")
    yield re.compile("a"), re.compile("b")
    yield Path("a"), Path("b")
    yield range(1), range(2)
    yield "x" * 100_000, "x" * 99_999 + "y"
    yield bytes(100_000), bytes(99_999)
    yield list(map(str, range(100_000))), list(map(str, range(99_999)))
    yield [2**53 + i for i in range(100)], [*(2**53 + i for i in range(99)), 2**53 + 98]


def numpy_values():
    yield np.datetime64("2020-01-01"), np.datetime64("2020-01-02")
    yield np.datetime64("2020-01-01", "s"), np.datetime64("2020-01-01", "ns")
    yield np.dtype("float32"), np.dtype("float64")
    yield np.array([Fraction(1, 3)] * 100), np.array([Fraction(0.3333333333333333)] * 100)
    yield gym.spaces.Discrete(3), gym.spaces.Discrete(4)
    yield gym.spaces.Box(0, 1, (2,)), gym.spaces.Box(0, np.array([1, 2], "f4"))


def torch_values():
    torch = pytest.importorskip("torch")
    yield torch.float16, torch.float32
    yield torch.device("cpu"), torch.device("cuda:1")
    yield torch.zeros(100), torch.ones(100)
    yield torch.zeros(3, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16)
    yield torch.arange(6).reshape(2, 3).T, torch.arange(6).reshape(3, 2)
    yield torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)


def pandas_values():
    pandas = pytest.importorskip("pandas")
    numbers = pandas.DataFrame({"a": np.arange(100_000.0), "b": "x"})
    changed = numbers.copy()
    changed.loc[99_999, "b"] = "y"
    yield numbers, changed
    yield numbers, numbers.rename(columns={"a": "c"})
    yield pandas.Timestamp("2020-01-01"), pandas.Timestamp("2020-01-02")


@pytest.mark.parametrize("values", [python_values, numpy_values, torch_values, pandas_values])
def test_values_are_identified_by_content(values):
    for one, other in values():
        assert plain({"a": one}) == plain({"a": copy.deepcopy(one)})
        assert plain({"a": one}) != plain({"a": other})
        assert len(json.dumps(plain([one, other]))) < 4_000


def test_what_differs_in_every_run_is_ignored():
    torch = pytest.importorskip("torch")
    one, other = (
        SimpleNamespace(rng=np.random.default_rng(seed), where=object(), model=torch.nn.Linear(2, 2), space=gym.spaces.Discrete(3))
        for seed in range(2)
    )
    other.space.sample()
    assert plain(one) == plain(other)
    source = "def made(): return value"
    for one, other in [(gym.make("CartPole-v1"), gym.make("CartPole-v1", 10)), (itertools.count(0), itertools.count(1))]:
        assert plain(made(source, value=one)) == plain(made(source, value=other))


def test_strings_are_fingerprints_that_fit_many_guesses():
    secret = "hunter2"

    def facts(secret):
        kept = {
            "env_config": {"broker": {"password": secret, "port": 1883}, "path": Path(secret), "raw": secret.encode()},
            "learner_config_dict": {"large": [secret] * 500, "array": np.array([secret])},
            "callbacks_class": [functools.partial(scaled, api_key=secret), f"functools.partial(<class 'a.C'>, api_key='{secret}')"],
            "learner_connector": lambda: secret,
            "output": f"s3://key:{secret}@bucket",
            "batch_mode": "truncate_episodes",
        }
        return read_facts({"env": "CartPole-v1", **kept})

    here, there = facts(secret), facts("hunter3")
    assert secret not in json.dumps(here)
    assert here["env_config"]["broker"]["port"] == 1883
    assert {name for name in here if here[name] == there[name]} == {"algorithm", "env", "batch_mode"}
    assert (here["env"], here["batch_mode"]) == ("CartPole-v1", "truncate_episodes")
    # A dictionary attack on what is stored leaves many candidates.
    stored = plain(secret)
    assert sum(plain(f"guess {number}") == stored for number in range(300_000)) > 1


def test_pickled_copy_in_another_process_has_the_same_label():
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    source = (
        "import gymnasium as gym\nRATE = 0.1\ndef helper(x): return x in {'a', 'b', 'c'} and RATE\n"
        "class Env(gym.Env):\n    def __init__(self, config): super().__init__(); self.x = helper('a')\n"
        "    def step(self, action): return Env, [lambda: self]\n"
        "made = [Env, lambda config: Env(config), (lambda k: lambda x: x * k)(3), Env({}), gym.spaces.Discrete(2)]\n"
    )
    sent = made(source)
    code = (
        "import json, pickle, sys\nfrom rl_scaling_callback.rllib.content import plain\n"
        "print(json.dumps(plain(pickle.load(sys.stdin.buffer))))"
    )
    for seed in ("1", "2"):
        environ = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(rl_scaling_callback.__file__).parents[1])}
        there = subprocess.run(
            [sys.executable, "-c", code], input=cloudpickle.dumps(sent), capture_output=True, check=True, env=environ
        )
        assert json.loads(there.stdout) == plain(sent)

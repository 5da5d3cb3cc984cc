"""Labels of code and values: the same in every process, different if the code differs."""

import copy
import functools
import json
import re
import subprocess
import sys
import tracemalloc
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import gymnasium as gym
import numpy as np
import pytest

import rl_scaling_callback
from rl_scaling_callback.rllib import content
from rl_scaling_callback.rllib.facts import read_facts
from rl_scaling_callback.rllib.values import plain


def made(source, name="made", **names):
    """Return the object `name` that `source` defines, as if it were a user's script."""
    space = {"__name__": "__main__", **names}
    exec(compile(source, "script.py", "exec"), space)
    return space[name]


def scaled(factor):
    return lambda value: value * factor


FUNCTION = "def made(x, y=1):\n    return x + y\n"
BASE = "class base:\n    def step(self): return {}\nclass made(base): pass"
WRAPPERS = [
    "@staticmethod",
    "@property",
    "from functools import cache\n@cache",
    "from functools import cached_property\nclass mine(cached_property): pass\n@mine",
]
CREATOR = "class Env:\n    def step(self): return {}\nmade = lambda config: Env(config)"
METHOD = "class made:\n    def step(self):\n        return 1\n"


def test_names_lines_comments_and_docstrings_are_ignored():
    function = "\n\n# moved\ndef made(a, b=1):\n    'Says something.'\n    return a + b\n"
    method = "class made:\n    'Says something.'\n\n    def step(this):\n        # says something\n        return 1\n"
    assert [plain(made(FUNCTION)), plain(made(METHOD))] == [plain(made(function)), plain(made(method))]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (FUNCTION, "def made(x, y=2):\n    return x + y\n"),
        (FUNCTION, "def made(x, y=1):\n    return x - y\n"),
        (METHOD, "class made:\n    def step(self):\n        return 2\n"),
        (METHOD, "class made:\n    rate = 2\n    def step(self):\n        return 1\n"),
        (BASE.format(1), BASE.format(2)),
        ("rate = 1\ndef made(): return rate", "rate = 2\ndef made(): return rate"),
        ("def f(): return 1\ndef made(): return f()", "def f(): return 2\ndef made(): return f()"),
        (CREATOR.format(1), CREATOR.format(2)),
        ("def made():\n    def f(): return 1\n    return f", "def made():\n    def f(): return 2\n    return f"),
        ("def made():\n    class C:\n        n = 1\n    return C", "def made():\n    class C:\n        n = 2\n    return C"),
        ("def made(): import json", "def made(): import csv"),
        *((f"{wrapper}\ndef made(self): return 1", f"{wrapper}\ndef made(self): return 2") for wrapper in WRAPPERS),
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
    codes = (compile(f"class C: flag = {flag}", "script.py", "exec").co_consts[0] for flag in (True, False, 1.0))
    assert len({content.label(code, plain) for code in codes}) == 3


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
        (tmp_path / "some_envs/slow.py").write_text(f"raise RuntimeError\nSTEP = {step}\n")
        content.module_label.cache_clear()
        labels.add(content.module_label("some_envs.slow"))
    assert len(labels) == 2
    assert content.module_label("no_such_module") == "no_such_module"


def test_large_values_are_hashed_and_arrays_equal_lists():
    array = np.arange(50_000.0)
    assert plain(array) == plain(array.tolist()) != plain(array + 1)
    for value in (array, array.reshape(100, 500), "x" * 100_000, list(map(str, range(100_000))), bytes(100_000)):
        assert len(json.dumps(plain(value))) < 100
    assert plain({"a": list(range(5))}) == {"a": [0, 1, 2, 3, 4]}
    for small in (np.arange(5), np.arange(100), np.arange(100.0), np.arange(100) > 50):
        assert plain(small) == plain(small.tolist()) == plain(np.array(small.tolist(), small.dtype))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", ">f8", "datetime64[s]", "<U3", "complex64"])
def test_arrays_are_hashed_in_any_memory_layout(dtype):
    array = np.arange(120_000).reshape(300, 400).astype(dtype)
    assert plain(array) == plain(array.copy(order="F")) == plain(np.repeat(array, 2, axis=1)[:, ::2])
    assert plain(array) != plain(array.T)
    other = array.copy()
    other[-1, -1] = array[0, 1] if array[-1, -1] != array[0, 1] else array[0, 2]
    assert plain(other) != plain(array)


def test_large_arrays_are_hashed_in_place():
    array = np.zeros((10_000, 5_000), np.uint8, order="F")
    tracemalloc.start()
    try:
        plain({"images": array})
        assert tracemalloc.get_traced_memory()[1] < 0.2 * array.nbytes
    finally:
        tracemalloc.stop()


def torch_values():
    torch = pytest.importorskip("torch")
    yield torch.float16, torch.float32
    yield torch.device("cpu"), torch.device("cuda:1")
    yield torch.zeros(100), torch.ones(100)
    yield torch.zeros(3), torch.zeros(3, dtype=torch.float16)
    yield torch.zeros(3, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16)
    yield torch.arange(6).reshape(2, 3), torch.arange(6).reshape(3, 2)


def pandas_values():
    pandas = pytest.importorskip("pandas")
    numbers = pandas.DataFrame({"a": np.arange(100_000.0), "b": "x"})
    changed = numbers.copy()
    changed.loc[99_999, "b"] = "y"
    yield numbers, changed
    yield numbers, numbers.rename(columns={"a": "c"})
    yield numbers, numbers.astype({"a": "float32"})
    yield pandas.Series([1, 2]), pandas.Series([1, 3])
    yield pandas.Index(["a"]), pandas.Index(["b"])
    yield pandas.Timestamp("2020-01-01"), pandas.Timestamp("2020-01-02")


def other_values():
    yield Decimal("1.1"), Decimal("1.2")
    yield Fraction(1, 3), Fraction(1, 4)
    yield date(2020, 1, 1), date(2020, 1, 2)
    yield timedelta(1), timedelta(2)
    yield datetime(2020, 1, 1, tzinfo=timezone.utc), datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    yield UUID(int=1), UUID(int=2)
    yield re.compile("a"), re.compile("b")
    yield np.datetime64("2020-01-01"), np.datetime64("2020-01-02")
    yield np.datetime64("2020-01-01", "s"), np.datetime64("2020-01-01", "ns")
    yield np.array(["2020-01-01"], "M8[s]"), np.array(["2020-01-02"], "M8[s]")
    yield [2**70 + i for i in range(100)], [*(2**70 + i for i in range(99)), 0]
    yield [2**53 + i for i in range(100)], [*(2**53 + i for i in range(99)), 2**53 + 98]
    yield [Fraction(1, 3)] * 100, [Fraction(0.3333333333333333)] * 100


@pytest.mark.parametrize("values", [torch_values, pandas_values, other_values])
def test_values_are_identified_by_content(values):
    for one, other in values():
        assert plain({"a": one}) == plain({"a": copy.deepcopy(one)})
        assert plain({"a": one}) != plain({"a": other})
        assert json.loads(json.dumps(plain(other))) == plain(other)
        if content.is_constant(one):
            used, others = ("def made(): return value", {"value": one}), ("def made(): return value", {"value": other})
            assert plain(made(used[0], **used[1])) != plain(made(others[0], **others[1]))


def test_parameters_of_models_are_ignored():
    torch = pytest.importorskip("torch")
    one, other, larger = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)
    assert plain(one) == plain(other) != plain(larger)


def test_strings_are_fingerprints_that_fit_many_guesses():
    secret = "hunter2"
    kept = {
        "env_config": {"broker": {"password": secret, "port": 1883}, "path": Path(secret), "raw": secret.encode()},
        "learner_config_dict": {"large": [secret] * 500},
        "callbacks_class": [functools.partial(scaled, api_key=secret), "functools.partial(<class 'a.b.C'>, api_key='hunter2')"],
        "learner_connector": lambda: secret,
        "output": f"s3://key:{secret}@bucket",
        "my_key": secret,
        "env": "CartPole-v1",
        "batch_mode": "truncate_episodes",
    }
    facts = read_facts(kept)
    assert secret not in json.dumps(facts)
    assert facts["env_config"]["broker"]["port"] == 1883
    assert (facts["env"], facts["batch_mode"]) == ("CartPole-v1", "truncate_episodes")
    other = read_facts({**kept, "env_config": {"broker": {"password": "hunter3", "port": 1883}}})
    assert other["env_config"]["broker"] != facts["env_config"]["broker"]
    # A dictionary attack on what is stored leaves many candidates.
    stored = plain(secret)
    assert sum(plain(f"guess {number}") == stored for number in range(300_000)) > 1


def test_objects_that_differ_in_every_run_are_ignored():
    one, other = (SimpleNamespace(rng=np.random.default_rng(seed), where=object()) for seed in range(2))
    assert plain(one) == plain(other)
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
        "import json, pickle, sys\nfrom rl_scaling_callback.rllib.values import plain\n"
        f"print(json.dumps(plain(pickle.loads(open({str(file)!r}, 'rb').read()))))"
    )
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(rl_scaling_callback.__file__).parents[1])},
        )
        assert json.loads(there.stdout) == plain(sent)

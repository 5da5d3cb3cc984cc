"""The arithmetic must work without Ray, and importing the package must stay cheap."""

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "rl_scaling_callback"
NEED_RAY = {
    "callback",
    "reporter",
    "rllib.introspection",
    "rllib.prober",
    "rllib.switch",
    "sweeping.cluster",
    "sweeping.instrument",
    "sweeping.probe_host",
    "sweeping.probes",
    "sweeping.reuse",
    "sweeping.placement",
    "sweeping.searcher",
    "sweeping.stopper",
    "sweeping.sweep",
    "sweeping.trials",
    "sweeping.watchdog",
}
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
WITHOUT_RAY = sorted({module.removesuffix(".__init__") for module in MODULES} - NEED_RAY - {"__init__"})

ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "torch", "pyarrow"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, rl_scaling_callback; print([m for m in ('ray', 'torch', 'numpy', 'scipy', 'pyarrow') if m in sys.modules])"
    assert run(code).stdout.strip() == "[]"


def test_other_modules_import_without_ray():
    imports = "\n".join(f"import rl_scaling_callback.{module}" for module in WITHOUT_RAY)
    done = run(f"{ABSENT}\n{imports}")
    assert done.returncode == 0, done.stderr


def test_missing_rllib_error_says_what_to_install():
    done = run("import sys; sys.modules['ray'] = None\nfrom rl_scaling_callback import ScalingCallback")
    assert 'pip install "ray[tune,rllib]' in done.stderr

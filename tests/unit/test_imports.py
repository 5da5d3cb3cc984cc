"""Most modules import without Ray, importing the package is cheap, and packages import downward only."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "rl_scaling_callback"
NEED_RAY = {
    "callback",
    "live.instruments",
    "reporter",
    "rllib.hooks",
    "rllib.introspection",
    "rllib.prober",
    "rllib.rescale",
    "rllib.twins",
    "sweeping.by_probes",
    "sweeping.by_training",
    "sweeping.host",
    "sweeping.sweep",
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


def test_importing_the_package_and_its_reports_imports_nothing_heavy():
    heavy = ("ray", "torch", "pyarrow", "matplotlib", "jinja2", "rich")
    show = "print([module for module in {} if module in sys.modules])"
    code = f"import sys, rl_scaling_callback; {show.format((*heavy, 'numpy', 'scipy'))}"
    assert run(code).stdout.strip() == "[]"
    code = f"import sys; from rl_scaling_callback.report import make_report, print_report; {show.format(heavy)}"
    assert run(code).stdout.strip() == "[]"


def test_other_modules_import_without_ray():
    imports = "\n".join(f"import rl_scaling_callback.{module}" for module in WITHOUT_RAY)
    done = run(f"{ABSENT}\n{imports}")
    assert done.returncode == 0, done.stderr


def test_missing_rllib_error_says_what_to_install():
    done = run("import sys; sys.modules['ray'] = None\nfrom rl_scaling_callback import ScalingCallback")
    assert 'pip install "ray[tune,rllib]' in done.stderr


BELOW = {
    "core": set(),
    "storage": set(),
    "analysis": {"core"},
    "rllib": {"core"},
    "baseline": {"core", "storage"},
    "live": {"core", "analysis", "baseline", "rllib"},
    "experiments": {"core", "storage", "analysis", "baseline", "rllib"},
    "report": {"core", "analysis", "experiments"},
    # Its Algorithms use the callback as any others do.
    "sweeping": {"core", "storage", "analysis", "rllib", "report", "callback"},
}


def imported(node):
    """Yield the subpackages that code imports at runtime."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.ImportFrom) and (child.module or "").partition(".")[0] == PACKAGE.name:
            _, *names = child.module.split(".")
            yield from names[:1] or [alias.name for alias in child.names]
        yield from imported(child)


def test_subpackages_import_downward_only():
    for part, below in BELOW.items():
        paths = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else [*(PACKAGE / part).rglob("*.py")]
        assert paths
        for path in paths:
            assert {*imported(ast.parse(path.read_text(encoding="utf-8")))} <= {part, "__version__", *below}, path

"""Most modules import without Ray, importing the package is cheap, and packages import downward only."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "rl_scaling_callback"
NEED_RAY = re.compile(
    r"callback|reporter|live\.instruments|rllib\.(hooks|introspection|prober|rescale|twins)|sweeping\.(by_.*|host|sweep)"
)
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("[!_]*.py")}
WITHOUT_RAY = sorted(module for module in MODULES if not NEED_RAY.fullmatch(module))

ABSENT = "import sys; sys.modules.update(dict.fromkeys(['ray', 'torch', 'pyarrow']))"  # None: it can't be imported


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False)


@pytest.mark.parametrize(("module", "more"), [("rl_scaling_callback", {"numpy", "scipy"}), ("rl_scaling_callback.report", set())])
def test_importing_the_package_and_its_reports_imports_nothing_heavy(module, more):
    heavy = {"ray", "torch", "pyarrow", "matplotlib", "jinja2", "rich", *more}
    assert run(f"import sys, {module}; print({heavy} & {{*sys.modules}})").stdout.strip() == "set()"


def test_other_modules_import_without_ray():
    imports = "\n".join(f"import rl_scaling_callback.{module}" for module in WITHOUT_RAY)
    done = run(f"{ABSENT}\n{imports}")
    assert done.returncode == 0, done.stderr


def test_missing_rllib_error_says_what_to_install():
    done = run(f"{ABSENT}\nfrom rl_scaling_callback import ScalingCallback")
    assert 'pip install "ray[tune,rllib]' in done.stderr


LAYERS = ("core", "storage", "analysis", "rllib", "baseline", "live", "experiments", "report", "callback", "sweeping")


def test_subpackages_import_downward_only():
    for index, layer in enumerate(LAYERS):
        for path in (*PACKAGE.glob(f"{layer}.py"), *PACKAGE.glob(f"{layer}/**/*.py")):
            imported = re.findall(r"^from rl_scaling_callback\.(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert {*imported} <= {*LAYERS[: index + 1]}, path

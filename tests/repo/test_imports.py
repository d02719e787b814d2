"""Imports point one way, need no optional package, and `vivit --help` does not wait for PyTorch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "vivit").rglob("*.py"))
}
# A module may import what stands on an earlier line, its own part, and, among the tools on top, other tools.
TOOLS = {
    "recipes",
    "prediction",
    "show",
    "comparison",
    "info",
    "plan",
    "runs",
    "attention",
    "pages",
    "report",
    "demo",
    "studies",
    "bench",
}
ORDER = [
    {"errors"},
    {"files", "text", "config", "install_check"},
    {"presets"},
    {"data", "model"},
    {"weights"},
    {"engine"},
    TOOLS,
    {"cli"},
    {"__main__"},
]
OPTIONAL = [
    "tensorboard",
    "torchcodec",
    "timm",
    "transformers",
    "skvideo",
    "tensorflow",
    "jax",
    "flax",
    "onnx",
    "pandas",
]


def part(module: str) -> str:
    """vivit.data.clips → data"""
    return module.split(".")[1]


def level(module: str) -> int:
    return next(i for i, parts in enumerate(ORDER) if part(module) in parts)


def statements(tree: ast.Module):
    """The statements that run when the module is imported: not those inside functions or under TYPE_CHECKING."""
    stack = list(tree.body)
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            stack += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            stack += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.excepthandler)]


def imported(module: str) -> set[str]:
    """The modules of the package that importing `module` imports."""
    package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in statements(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            found |= {f"{source}.{a.name}" if f"{source}.{a.name}" in MODULES else source for a in node.names}
    return {name for name in found if name in MODULES and name != "vivit"}


def test_the_reader_of_imports_sees_them():
    assert {"vivit.config", "vivit.data.clips", "vivit.data.decode"} <= imported("vivit.data.dataset")
    assert "vivit.weights.load" not in imported("vivit")  # under TYPE_CHECKING


@pytest.mark.parametrize("module", [m for m in MODULES if m != "vivit"])
def test_imports_point_one_way(module):
    for other in imported(module):
        allowed = level(other) < level(module) or part(other) == part(module) or {part(other), part(module)} <= TOOLS
        assert allowed, f"{module} imports {other}, which comes after it or beside it"


def test_data_and_model_never_import_each_other():
    for module in MODULES:
        if module.startswith(("vivit.data", "vivit.model")):
            assert not {part(other) for other in imported(module)} & ({"data", "model"} - {part(module)})


def run(code: str, folder: Path | None = None) -> str:
    how = {"capture_output": True, "text": True, "timeout": 120, "check": False, "cwd": folder}
    done = subprocess.run([sys.executable, "-c", code], **how)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_can_be_imported_without_any_optional_package():
    names = [name for name in MODULES if name != "vivit.__main__"]
    run(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({OPTIONAL}))\n"
        f"for name in {names}: importlib.import_module(name)\n"
    )


def test_help_and_the_package_itself_do_not_import_torch():
    out = run(
        "import sys, vivit\n"
        "from vivit.cli import main\n"
        "sys.argv = ['vivit', '--help']\n"
        "main()\n"
        "assert not {'torch', 'numpy', 'av'} & set(sys.modules)\n"
    )
    assert out.startswith("usage: vivit COMMAND")


def test_public_names_are_what_they_say_whichever_modules_were_imported_before():
    run(
        "import vivit, vivit.comparison, vivit.prediction, vivit.weights.load\n"
        "assert {'create', 'from_pretrained', 'predict'} <= set(dir(vivit)) and set(vivit.__all__) <= set(dir(vivit))\n"
        "assert all(callable(getattr(vivit, name)) for name in vivit.__all__)\n"
        "assert vivit.predict is vivit.prediction.predict\n"
        "import sys\n"
        "assert not {'torchvision', 'torch._dynamo'} & set(sys.modules)\n"  # they take seconds
    )


def test_a_prediction_waits_for_nothing_that_only_training_needs(tmp_path):
    """FSDP and the compiler take seconds to import, and a computation on the meta device imports the compiler."""
    run(
        "import sys\n"
        "from pathlib import Path\n"
        "from vivit.cli import main\n"
        "from vivit.data.synthetic import render, write_video\n"
        "from vivit.presets import preset\n"
        "from vivit.weights.load import create\n"
        "small = {'image_size': (32, 32), 'num_frames': 4, 'depth': 1, 'temporal_depth': 1}\n"
        "create(preset('ViViT-Ti/16x2 FE', classes={'label': ('a', 'b')}, **small)).save_pretrained('weights')\n"
        "write_video(Path('video.mp4'), render(0, 'val', 0, num_frames=8)[0])\n"
        "sys.argv = ['vivit', 'predict', 'weights', 'video.mp4']\n"
        "main()\n"
        "assert not {'torchvision', 'torch._dynamo', 'torch.distributed.fsdp', 'sympy'} & set(sys.modules)\n",
        folder=tmp_path,
    )

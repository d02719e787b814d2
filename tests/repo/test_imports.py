"""Check that imports point one way, need no optional package, and that `vivit --help` does not import PyTorch."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "vivit").rglob("*.py"))
}
# A module may import modules of an earlier line, and other modules of its own part.
ORDER = [
    {"errors"},
    {"files", "text", "settings", "install_check", "torch_private"},
    {"model_config"},
    {"config"},
    {"presets"},
    {"data", "model"},
    {"weights"},
    {"engine"},
    {"inference"},
    {"api"},
    {"report"},
    {"recipes"},
    {"studies"},
    {"export"},
    {"serve"},
    {"corpus"},
    {"cli"},
    {"__main__"},
]
EXCEPTION = ("vivit.model.vivit", "vivit.weights.")  # save_pretrained and push_to_hub are methods of the model
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
    "onnxruntime",
    "onnxscript",
    "openvino",
    "pandas",
    "pyarrow",
    "sentencepiece",
    "tokenizers",
    "starlette",
    "uvicorn",
    "python_multipart",
    "prometheus_client",
    "ray",
]
# Modules that are nothing without their extra, imported by the command that names it.
OF_EXTRA = {f"vivit.serve.{name}" for name in ("app", "guard", "metrics", "openapi", "run", "streams", "uploads")}


def part(module: str) -> str:
    """vivit.data.clips → data"""
    return module.split(".")[1]


def level(module: str) -> int:
    return next(i for i, parts in enumerate(ORDER) if part(module) in parts)


def imported(module: str) -> set[str]:
    """Return the modules of the package that `module` imports: at its top, inside functions or for type checking."""
    package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            found |= {f"{source}.{a.name}" if f"{source}.{a.name}" in MODULES else source for a in node.names}
    return {name for name in found if name in MODULES and name != "vivit"}


def edges() -> dict[str, set[str]]:
    """Return what each module imports, without the one exception."""
    here, there = EXCEPTION
    return {
        module: {other for other in imported(module) if not (module == here and other.startswith(there))}
        for module in MODULES
        if module != "vivit"  # the public names, which it imports when they are asked for
    }


def test_the_reader_of_imports_sees_them():
    assert {"vivit.config", "vivit.data.clips", "vivit.data.video.decoder"} <= imported("vivit.data.views")
    assert "vivit.engine.train" in imported("vivit.cli.train")  # inside a function
    assert "vivit.weights.save" in imported("vivit.model.vivit")


def test_imports_point_one_way():
    wrong = [
        f"{module} imports {other}"
        for module, others in edges().items()
        for other in others
        if level(other) >= level(module) and part(other) != part(module)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_through_others():
    left = edges()
    while free := {module for module, others in left.items() if not others & left.keys()}:
        left = {module: others for module, others in left.items() if module not in free}
    assert not left, f"in or above an import cycle: {sorted(left)}"


def test_data_and_model_never_import_each_other():
    for module in MODULES:
        if module.startswith(("vivit.data", "vivit.model")):
            assert not {part(other) for other in imported(module)} & ({"data", "model"} - {part(module)})


def run(code: str, folder: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=1200, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_can_be_imported_without_any_optional_package():
    names = [name for name in MODULES if name != "vivit.__main__" and name not in OF_EXTRA]
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
    assert out.startswith("usage: vivit COMMAND [options]")


def test_public_names_are_what_they_say_whichever_modules_were_imported_before():
    run(
        "import vivit, vivit.engine.compare, vivit.inference.predict, vivit.weights.load\n"
        "assert {'create', 'from_pretrained', 'predict'} <= set(dir(vivit)) and set(vivit.__all__) <= set(dir(vivit))\n"
        "assert all(callable(getattr(vivit, name)) for name in vivit.__all__)\n"
        "assert vivit.predict is vivit.inference.predict.predict\n"
        "import sys\n"
        "assert not {'torchvision', 'torch._dynamo'} & set(sys.modules)\n"  # they take seconds
    )


def test_a_prediction_waits_for_nothing_that_only_training_needs(tmp_path):
    """FSDP and the compiler take seconds to import, and a computation on the meta device imports the compiler."""
    run(
        "import sys\n"
        "from pathlib import Path\n"
        "from vivit.cli import main\n"
        "from vivit.data.tools.synthetic import render, write_video\n"
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

"""The help of every command is short, complete, for people, and does not wait for PyTorch."""

import dataclasses
import inspect
import re
import resource
import subprocess
import sys

import pytest

from vivit.cli import data, info, plan, predict, runs
from vivit.cli.help import list_settings
from vivit.cli.main import COMMANDS
from vivit.cli.recipe_config import RECIPES
from vivit.config import Config
from vivit.data.tools.check import check
from vivit.data.tools.prepare import EncodingOptions, prepare
from vivit.engine import runs as engine_runs
from vivit.engine.plan import Hardware
from vivit.inference.predict import predict as predict_file

HELPS = [
    *([], ["train"], ["data"], ["weights"], ["eval", "some/weights"], ["data", "show", "demo"], ["plan", "demo"]),
    *(["study", "architecture"], ["study", "architecture", "demo"], ["plan", "ViViT-B/16x2 FE"], ["train", "finetune"]),
    *(["data", verb] for verb in ("check", "prepare", "show")),
    *(["weights", verb] for verb in ("report", "convert", "verify")),
    *(["labels", verb] for verb in ("edit", "import", "export", "next", "doubtful")),
    *(["corpus", "predict"], ["corpus", "timeline"], ["corpus", "features"], ["slurm", "demo"]),
    *([command] for command in COMMANDS if command not in ("train", "data", "weights")),
    *(["train", name] for name in RECIPES if name != "finetune"),
]


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_every_help_fits_a_screen_and_is_written_for_people(words, vivit):
    code, out, err = vivit(*words, "--help")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert "usage: vivit" in out
    usage = out.split("\n\n")[0] + " "
    arguments = re.findall(r"^  ([A-Z]+)(?: \.\.\.)?(?: {2}|$)", out, flags=re.MULTILINE)
    assert [name for name in arguments if not re.search(rf"[ \[]{name}[ \]]", usage)] == []
    assert not re.search(r"Raises|Returns|noqa|Args:|\bSTR\b|MISSING", out)


def test_every_command_says_the_same_of_its_weights(vivit):
    helps = [" ".join(vivit(*words, "--help")[1].split()) for words in HELPS]
    said = {match[0] for text in helps if (match := re.search(r"WEIGHTS A [^.]*[.][^.]*[.]", text))}
    assert {text.replace("also one of vivit export, ", "") for text in said} == {
        "WEIGHTS A run, a folder with model.safetensors, a file, a hub id or a start."
    }


@pytest.mark.parametrize("words", [["train", "demo"], ["eval", "x"], ["predict"], ["plan", "demo"], ["study"]])
def test_all_settings_are_listed_on_request(words, vivit):
    short, full = (vivit(*words, flag)[1] for flag in ("--help", "--help-all"))
    number = int(re.search(r"Show all (\d+) settings", short)[1])
    entries = re.findall(r"^  (--\S+|[A-Z]+( \.\.\.)?\s)", full, flags=re.MULTILINE)
    assert len(entries) == number > len(re.findall(r"^  --", short, flags=re.MULTILINE))
    assert max(map(len, full.splitlines())) <= 80


def test_the_list_of_commands_has_two_columns(vivit):
    lines = [line for line in vivit("--help")[1].splitlines() if line.startswith("  ")]
    columns = [re.fullmatch(r"  (.*?\S)( {2,})(\S.*)", line) for line in lines]
    assert len(lines) == len(COMMANDS)
    assert len({column.start(3) if column else None for column in columns} - {None}) == 1
    assert all(columns)


def test_without_words_there_is_help_and_no_error(vivit):
    for words in ([], ["train"], ["data"], ["weights"]):
        code, out, err = vivit(*words)
        assert (code, err) == (0, "")
        assert "usage: vivit" in out


def test_every_setting_of_a_command_has_a_help_text():
    for cls in (data.Check, data.Prepare, data.Show, plan.Plan, predict.Predict, info.Info, runs.Runs):
        for setting in list_settings(cls):
            config_has_it = "." in setting.name or any(f.name == setting.name for f in dataclasses.fields(Config))
            assert setting.help or config_has_it, setting.name


def test_a_recipes_help_shows_the_values_of_its_run(vivit):
    out = vivit("train", "demo", "--help")[1]
    assert "(default: 0.0015)" in out
    assert "(default: 48 48)" in " ".join(out.split())
    assert "(default: demo/run)" in out


@pytest.mark.parametrize("words", [["study", "architecture"], ["slurm"], ["plan"]])
@pytest.mark.parametrize("flag", ["--help", "--help-all"])
def test_without_a_recipe_the_settings_of_a_run_have_no_defaults(words, flag, vivit):
    """Every recipe has its own; the command has defaults all the same."""
    out = " ".join(vivit(*words, flag)[1].split())
    assert "(default: " in out
    assert not re.search(r"--(optim|model)\.[^()]*\(default", out)
    assert "runs/default" not in out


def test_the_help_of_finetune_shows_its_main_setting(vivit):
    assert "--budget TEXT" in vivit("train", "finetune", "--help")[1]
    assert all("--budget" not in vivit("train", name, "--help")[1] for name in RECIPES if name != "finetune")


def test_the_help_of_eval_lists_only_settings_that_it_uses(vivit):
    out = vivit("eval", "x", "--help-all")[1]
    assert "--data.eval-split" in out
    assert not re.search(r"--(data\.(train-split|max-unreadable|storage-timeout)|optim|augment|seed|init)", out)
    out = vivit("data", "show", "demo", "--help-all")[1]
    assert "--augment.flip" in out
    assert "--optim" not in out


def test_help_does_not_wait_for_pytorch():
    """All helps in one process without PyTorch and NumPy; then one command, whose processor time is measured."""
    code = (
        "import contextlib, io, sys\n"
        "from vivit.cli.main import main\n"
        f"for words in {HELPS}:\n"
        "    sys.argv = ['vivit', *words, '--help']\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        main()\n"
        "found = {'torch', 'numpy', 'av', 'torchvision'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "vivit", "train", "demo", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5  # 0.25 s here


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (data.Check, check),
        (data.Prepare, prepare),
        (data.Prepare, EncodingOptions),
        (plan.Plan, Hardware),
        (runs.Runs, engine_runs.format_runs),
        (predict.Predict, predict_file),
    ],
)
def test_a_command_has_the_defaults_of_the_function_that_it_calls(command, function):
    defaults = {field.name: field.default for field in dataclasses.fields(command)}
    shared = {name: p.default for name, p in inspect.signature(function).parameters.items() if name in defaults}
    assert shared
    assert all(value in (inspect.Parameter.empty, defaults[name]) for name, value in shared.items())

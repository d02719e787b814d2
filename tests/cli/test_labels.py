"""`vivit labels`: the commands of its guide, and arguments that are wrong."""

import re
import shutil
from http.server import ThreadingHTTPServer
from pathlib import Path

from ..data.videos import counter_frames, write_video
from ..model import tiny

served = []


def interrupt(server, *_):
    """Note what would be served, and end as Ctrl-C does."""
    served.append(server.labelling)
    raise KeyboardInterrupt


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "labels.md"
TABLE = "path,start,end,label\na.mp4,0.4,0.8,open\na.mp4,,0.4,close\n"


def test_the_commands_of_the_guide_give_the_table_back(vivit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").mkdir()
    write_video(tmp_path / "recordings" / "a.mp4", counter_frames(40))
    (tmp_path / "recordings" / "labels.csv").write_text(TABLE)
    commands = [line for line in GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith("vivit ")]
    assert len(commands) == 5
    page, *commands = commands
    said = [vivit(*command.split()[1:]) for command in commands[:2]]
    assert said == [(0, "", "2 labels in tasks\n"), (0, "", "2 rows of 1 videos in recordings/corrected.csv\n")]
    assert (tmp_path / "recordings" / "corrected.csv").read_text() == TABLE
    tiny.model(classes={"label": ("close", "open")}).save_pretrained("runs/finetune")
    for name in "bcdefghijk":
        shutil.copy(tmp_path / "recordings" / "a.mp4", tmp_path / "recordings" / f"{name}.mp4")
    rows = [f"{name}.mp4,0.{i},,{'open' if i % 2 else 'close'}" for i, name in enumerate("bcdefghijk")]
    (tmp_path / "recordings" / "labels.csv").write_text("\n".join(["path,start,end,label", *rows]))
    [choose, doubt] = [vivit(*command.split()[1:], "--workers", 0) for command in commands[2:]]
    assert choose == (0, "", "1 videos to label next in next.csv, the most useful first\n")
    assert (tmp_path / "next.csv").read_text().splitlines()[1].startswith("recordings/a.mp4,,,,")
    assert doubt[0] == 0, doubt[2]
    assert len((tmp_path / "doubtful.csv").read_text().splitlines()) == 9
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", interrupt)
    code, _, err = vivit(*page.split()[1:], "--workers", 0, "--port", 0)
    assert code == 130
    assert re.search(r"open http://127.0.0.1:\d+/; labels go into recordings/labels.csv; Ctrl-C ends", err)
    assert served[0].labels.keys() == {f"{name}.mp4" for name in "bcdefghijk"}
    assert served[0].suggestions.keys() == {"a.mp4"}
    assert served[0].classes == ["open", "close"]


def test_wrong_arguments_say_what_to_do(vivit, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "labels.json").write_text("[1]")
    command = ["labels", "import", tmp_path / "labels.json", "--root", tmp_path, "--format"]
    assert "a JSON object is expected, got [1]" in vivit(*command, "via")[2]
    assert "not a file of label-studio, or a damaged one" in vivit(*command, "label-studio")[2]
    assert vivit(*command, "dive")[0] == 2
    assert "unknown command 'labels move'" in vivit("labels", "move")[2]
    gone = tmp_path / "gone"
    for args, problem in (
        (["import", gone, "--format", "epic", "--root", tmp_path], f"{gone}: does not exist; give what epic exported"),
        (["import", tmp_path, "--format", "cvat", "--root", gone], f"{gone}: no such folder; give that of the videos"),
        (["edit", gone, "--classes", "a"], f"{gone}: no such folder; give that of the videos"),
        (["edit", tmp_path, "--classes", "a", "--port", 99999], "port is 99999; it is 0 to 65535"),
    ):
        code, _, err = vivit("labels", *args)
        assert code == 2
        assert problem in err


def test_no_verb_replaces_a_file_that_may_hold_labels_made_by_hand(vivit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").mkdir()
    for name in "ab":
        write_video(tmp_path / "recordings" / f"{name}.mp4", counter_frames(40))
    (tmp_path / "recordings" / "labels.csv").write_text(TABLE)
    tiny.model(classes={"label": ("close", "open")}).save_pretrained("weights")
    choose = ["labels", "next", "weights", "recordings", "--workers", 0, "--count", 1]
    assert vivit(*choose)[0] == 0
    filled = (tmp_path / "next.csv").read_text().replace(",,,,", ",,,open,")
    (tmp_path / "next.csv").write_text(filled)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "a.xml").write_text("by hand")
    (tmp_path / "doubtful.csv").write_text("by hand")
    export = ["labels", "export", "recordings/labels.csv", "--out"]
    assert vivit(*export, "an.json", "--format", "activitynet")[0] == 0
    for args, out in (
        ([*choose, "--labelled", "next.csv"], "next.csv"),
        (["labels", "import", "an.json", "--format", "activitynet", "--root", "recordings"], "recordings/labels.csv"),
        ([*export, "an.json", "--format", "activitynet"], "an.json"),
        ([*export, "tasks", "--format", "cvat"], "tasks"),
        (["labels", "doubtful", "weights", "recordings/labels.csv"], "doubtful.csv"),
    ):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        code, _, err = vivit(*args)
        assert (code, f"{out} exists, and may hold labels made by hand; give another --out" in err) == (2, True), err
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert vivit(*choose, "--labelled", "next.csv", "--out", "second.csv")[0] == 0
    rounds = [(tmp_path / name).read_text().splitlines()[1].split(",")[0] for name in ("next.csv", "second.csv")]
    assert sorted(rounds) == ["recordings/a.mp4", "recordings/b.mp4"]

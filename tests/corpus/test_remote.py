"""Lists, videos and results behind URLs: s3:// on a local server, and servers that are slow, wrong or gone."""

import csv
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from vivit.corpus import local
from vivit.data.remote import local_folder
from vivit.errors import DataError

from ..cli.test_corpus import GUIDE
from ..model import tiny


@pytest.fixture
def bucket(monkeypatch, videos):
    """A bucket that holds data/0.mp4, data/deep/1.mp4 and data/list.csv, which also names a video that is not there."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    for name, value in {**values, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # clients of an earlier server
    s3 = fsspec.filesystem("s3")
    s3.mkdir("bucket")
    s3.put_file(str(videos / "0.mp4"), "bucket/data/0.mp4")
    s3.put_file(str(videos / "1.mp4"), "bucket/data/deep/1.mp4")
    s3.pipe_file("bucket/data/list.csv", b"path,start,end\n0.mp4,0.1,0.9\n0.mp4,,\ndeep/1.mp4,,\ngone.mp4,,\n")
    yield s3
    s3.rm("bucket", recursive=True)
    server.stop()


@pytest.fixture
def server(videos):
    """A web server with 0.mp4, a page of a mirror in place of a video, half a video, and an answer that never comes."""
    content = (videos / "0.mp4").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/slow.mp4":
                time.sleep(60)
            body = {"/0.mp4": content, "/half.mp4": content, "/page.mp4": b"<html>please log in</html>"}.get(self.path)
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command == "GET" and body:
                self.wfile.write(body[: len(body) // 2] if self.path == "/half.mp4" else body)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    web.server_close()


def rows(text):
    return list(csv.DictReader(text.splitlines()))


def test_lists_videos_and_results_on_s3_are_those_of_the_disk(run, bucket, videos, tmp_path):
    (videos / "deep").mkdir()
    (videos / "1.mp4").rename(videos / "deep" / "1.mp4")
    (videos / "list.csv").write_bytes(bucket.cat_file("bucket/data/list.csv"))
    here = run("features", out="here", source=videos / "list.csv")
    there = run("features", out="there", source="s3://bucket/data/list.csv", upload="s3://bucket/run")
    assert (here.failed, there.failed) == (1, 1)
    names = [path.relative_to(here.table.parent) for path in here.table.parent.rglob("*.npy")]
    assert len(names) == 3
    for name in names:
        with bucket.open(f"bucket/run/{name}") as file:
            np.testing.assert_array_equal(np.load(file), np.load(here.table.parent / name))
    kept = {path.removeprefix("bucket/run/") for path in bucket.find("bucket/run")}
    written = {str(path.relative_to(here.table.parent)) for path in here.table.parent.rglob("*.*")}
    assert kept == written - {"journal.jsonl", ".lock"}
    assert sorted(path.name for path in (tmp_path / "there").iterdir() if path.name[0] != ".") == [
        "features.csv",
        "journal.jsonl",
        "manifest.json",
    ]
    mine, theirs = rows(here.table.read_text()), rows(bucket.cat_file("bucket/run/features.csv").decode())
    assert "s3://bucket/data/gone.mp4: cannot be" in theirs[-1].pop("error")
    mine[-1].pop("error")
    for one in mine:
        one["path"] = one["path"].replace(str(videos), "s3://bucket/data")
    assert mine == theirs
    about = json.loads(bucket.cat_file("bucket/run/features/features.json"))["database"]
    assert sorted(about) == ["0", "0_0.1-0.9", "deep/1"]
    again = run("features", out="there", source="s3://bucket/data/list.csv", upload="s3://bucket/run")
    assert again.computed == 0
    assert run(out="predicted", source="s3://bucket/data").videos == 2
    with pytest.raises(OSError, match="s3://bucket/no/list.csv: cannot be read .FileNotFoundError"):
        run(source="s3://bucket/no/list.csv")
    with pytest.raises(DataError, match="s3://bucket/no: no video in it"):
        run(source="s3://bucket/no")
    with (
        pytest.raises(OSError, match=r"s3://nobody/run/a: cannot be written \("),
        local_folder("s3://nobody/run") as folder,
    ):
        (folder / "a").write_text("a")


def test_the_command_of_the_guide_runs_on_s3(bucket, forked, vivit, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.model().save_pretrained("runs/finetune")
    bucket.put_file(str(videos / "0.mp4"), "bucket/recordings/a.mp4")
    [command] = [line for line in GUIDE.read_text(encoding="utf-8").splitlines() if re.match("vivit .*s3://", line)]
    assert vivit(*command.split()[1:])[0] == 0
    assert bucket.exists("bucket/arrays/features/a.npy")


def test_servers_that_are_slow_wrong_or_gone_are_named(run, server, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "STARTUP", 0.0)
    names = ("0", "page", "half", "none", "slow")
    (tmp_path / "list.csv").write_text("\n".join(["path", *(f"{server}/{name}.mp4" for name in names)]))
    done = run(source=tmp_path / "list.csv", timeout=15.0, workers=1)
    good, page, half, none, slow = rows(done.table.read_text())
    assert (good["label"] != "", good["error"]) == (True, "")
    assert page["error"].startswith(f"{server}/page.mp4: cannot be read as a video")
    assert half["error"].startswith(f"{server}/half.mp4: cannot be read (ClientPayloadError")
    assert none["error"].startswith(f"{server}/none.mp4: cannot be read (FileNotFoundError")
    assert slow["error"] == f"{server}/slow.mp4: not done after 15 s"

"""Run every block of docs/guides/segments.md, in order."""

import re
from pathlib import Path

from vivit.data.datasets.registry import read_samples

from .test_segment_fit import labelled

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "segments.md").read_text(encoding="utf-8")


def test_the_guide_runs_from_the_scores_to_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "video.mp4").touch()
    timeline, truth = labelled(0, "video.mp4", low=0.5)
    rows = [f"video.mp4,{s.start},{s.end},{s.labels['label']}" for s in truth]
    (tmp_path / "labels.csv").write_text("\n".join(["path,start,end,label", *rows]))
    names = {"timeline": timeline}
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
    for block in blocks:
        exec(block, names)
    assert sorted(names["complete"], key=lambda s: (s.start, s.end, s.label)) == names["found"]
    assert "mAP@0.5" in capsys.readouterr().out
    samples = read_samples("folder", "found.csv", "train")
    assert [(s.start, s.end) for s in samples] == [(s.start, s.end) for s in names["found"]]
    assert (tmp_path / "timeline.html").stat().st_size > 10_000
    assert len(blocks) == 6

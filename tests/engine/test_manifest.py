"""Training with the manifest of a check: what was unreadable then is left out by name, and is no failure."""

from dataclasses import replace

from vivit.data.tools.check import check
from vivit.engine.train import train

from .tiny import losses, quick, tiny_config, write_table


def test_what_a_check_found_unreadable_is_left_out_from_the_start(tmp_path, capsys):
    root = write_table(tmp_path / "data", train=8, val=4, broken=1)
    check(str(root), workers=1)
    config = quick(tiny_config(root, tmp_path / "run"))
    config = replace(config, data=replace(config.data, max_unreadable=0))
    train(config)
    out = capsys.readouterr().out
    assert "8 training and 5 validation videos" in out
    assert "skipped, unreadable according to vivit data check (1):" in out
    assert "broken-train0.mp4: cannot be read as a video" in out
    assert "(4 videos, 1 missing)" in out
    assert losses(config.run)

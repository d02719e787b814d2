"""`vivit demo`: synthetic videos, training, a test, a prediction and a report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import replace
from ..recipes.demo import TEST_VIDEOS, TRAIN_VIDEOS
from ..recipes.demo import demo as recipe
from ..text import printable
from .parse import parse

if TYPE_CHECKING:
    from ..model.vivit import ViViT

NEXT = """\
Your own videos, one folder per class (my_videos/<class>/*.mp4) or a CSV of path and labels:
  vivit data check my_videos
  vivit train finetune --data.root my_videos --init vit-base
  vivit predict runs/finetune some_video.mp4
Without a network, use --init {run} in place of vit-base. That model was trained on moving shapes only."""


@dataclass(frozen=True)
class Demo:
    """Train a small ViViT on synthetic videos, test it with and without motion, and write report.html."""

    folder: str = "demo"
    """Folder for all files; the same folder resumes an interrupted demo."""
    seed: int = 0
    """Seed of the videos and of the model; give another seed another folder."""


def run(args: list[str]) -> None:
    """Run the demo."""
    asked = parse(Demo, args, usage="vivit demo [options]")
    demo(asked.folder, asked.seed)


def demo(folder: str = "demo", seed: int = 0) -> None:
    """Write synthetic videos, train, evaluate, predict and report, all in `folder`."""
    import torch

    from ..data.splits import load_split
    from ..data.tools.synthetic import write_dataset
    from ..engine.eval_tables import format_evaluation
    from ..engine.evaluate import evaluate
    from ..engine.train import train
    from ..inference.predict import predict
    from ..report.run import write_report
    from ..weights.load import from_pretrained

    started = time.monotonic()
    torch.set_num_threads(1)  # the model is tiny: a second thread would only take turns with the video decoders
    home = Path(folder)

    print(f"1. Videos: {TRAIN_VIDEOS} to train and {TEST_VIDEOS} to test, with moving shapes (H.264 files)")
    root = write_dataset(home / "data", seed=seed, train=TRAIN_VIDEOS, val=TEST_VIDEOS)

    print("\n2. Training: the recipe `demo`, like `vivit train demo`")
    config = recipe()
    config = replace(config, data=replace(config.data, root=str(root)), run=str(home / "run"), seed=seed)
    trained = train(config)

    print("\n3. Test: 4 temporal x 3 spatial views of every test video, then the same with frames in random order")
    model = from_pretrained(trained / "weights").eval()
    samples = load_split(config.data, config.data.eval_split, classes=model.config.classes).samples
    protocols = config.eval, replace(config.eval, shuffle_frames=True)
    result, shuffled = (evaluate(model, samples, protocol=p, workers=config.data.workers) for p in protocols)
    print(f"{format_evaluation(result)}\n\n{format_evaluation(shuffled)}")

    print("\n4. A video that is not in the training set")
    prediction = predict(model, samples[0].path, top_k=3)
    print(prediction, "\n  ground truth:", ", ".join(map(printable, samples[0].labels.values())))
    next_steps = NEXT.format(run=trained)
    print("\n5. A minute of video with a new move every 5 seconds")
    minute = score_minute(home, model, seed)
    print(f"  {minute['summary']}")
    page = write_report(
        home / "report.html",
        title="vivit demo",
        run=trained,
        model=model,
        evaluation=result,
        shuffled=shuffled,
        prediction=prediction,
        timeline=minute,
        next_lines=next_steps.splitlines(),
    )
    print(f"\n{time.monotonic() - started:.0f} s in total. Open {page.resolve()}\n\n{next_steps}")


def score_minute(home: Path, model: ViViT, seed: int) -> dict[str, Any]:
    """Write a minute of video, its timeline beside the ground truth, and return the section of the report about it."""
    from ..data.tools.synthetic import write_long_video
    from ..inference.segments import segments
    from ..inference.timeline import timeline
    from ..inference.timeline_scores import match_truth, read_truth, score_timelines
    from ..report.timeline import draw_lanes, write_timeline_page

    table = write_long_video(home / "minute.mp4", seed=seed, first=TEST_VIDEOS)  # scenes after those of the test
    scored = timeline(model, home / "minute.mp4", hop=0.2)
    found, rows = segments(scored, "verb"), read_truth(table)
    _, truth, _ = match_truth([scored], rows, "verb")
    numbers = score_timelines([scored], rows, label_set="verb")
    segments_found, moves = numbers["segments"]
    page = write_timeline_page(home / "timeline.html", scored, found, truth=truth[scored.path])
    return {
        "title": "A minute of video with a new move every 5 seconds",
        "summary": f"None of it was in training. The verb is right in {numbers['accuracy']:.0%} of the time, and "
        f"{segments_found} segments were found for {moves} moves (F1@50 {numbers['f1@50']:.0%}). "
        "Between two moves a window sees both.",
        "page": page.name,
        **draw_lanes(scored, found, truth[scored.path], float(scored.end.max())),
    }

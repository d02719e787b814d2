"""The product in small: make videos, train, evaluate, predict, and show it on one page."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from .config import replace
from .data.splits import load_split
from .data.tools.synthetic import write_dataset
from .engine.eval_tables import table
from .engine.evaluate import evaluate
from .engine.train import train
from .inference.predict import predict
from .recipes.demo import TEST_VIDEOS, TRAIN_VIDEOS
from .recipes.demo import demo as recipe
from .report.run import write_report
from .text import printable
from .weights.load import from_pretrained

NEXT = """\
Your own videos, one folder per class (my_videos/<class>/*.mp4) or a CSV of path and labels:
  vivit data check my_videos
  vivit train finetune --data.root my_videos
  vivit predict runs/finetune some_video.mp4"""


def demo(folder: str = "demo", seed: int = 0) -> None:
    """Train a small ViViT on made videos, test it with and without motion, and write report.html.

    Args:
        folder: Where everything is written; the same folder again goes on where it stopped.
        seed: Another seed makes other videos and another model; give it another folder.
    """
    started = time.monotonic()
    torch.set_num_threads(1)  # the model is tiny: a second thread would only take turns with the video decoders
    home = Path(folder)

    print(f"1. Videos: {TRAIN_VIDEOS} to train and {TEST_VIDEOS} to test, of shapes that move (H.264 files)")
    root = write_dataset(home / "data", seed=seed, train=TRAIN_VIDEOS, val=TEST_VIDEOS)

    print("\n2. Training: the recipe `demo`, as `vivit train demo` would")
    config = recipe()
    config = replace(config, data=replace(config.data, root=str(root)), run=str(home / "run"), seed=seed)
    run = train(config)

    print("\n3. Test: 4 temporal x 3 spatial views of every test video; then the same with its frames in random order")
    model = from_pretrained(run / "weights").eval()
    samples = load_split(config.data, config.data.eval_split, classes=model.config.classes).samples
    protocols = config.eval, replace(config.eval, shuffle_frames=True)
    result, shuffled = (evaluate(model, samples, protocol=p, workers=config.data.workers) for p in protocols)
    print(table(result))
    print()
    print(table(shuffled))

    print("\n4. A video it has not seen")
    prediction = predict(model, samples[0].path, top_k=3)
    print(prediction, "\n  ground truth:", ", ".join(map(printable, samples[0].labels.values())))
    page = write_report(
        home / "report.html",
        title="vivit demo",
        run=run,
        model=model,
        evaluation=result,
        shuffled=shuffled,
        prediction=prediction,
        next_lines=NEXT.splitlines(),
    )
    print(f"\n{time.monotonic() - started:.0f} s in all. Open {page.resolve()}\n\n{NEXT}")

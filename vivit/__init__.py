"""Video classification with pure transformers: the ViViT family in PyTorch.

    import vivit

    model = vivit.create("ViViT-B/16x2 FE", classes={"action": ["swim", "run"]})    # random weights
    model = vivit.from_pretrained("runs/finetune")     # a run, a folder, a file or a hub id
    print(vivit.predict(model, "some_video.mp4"))      # or the name of the weights
    print(vivit.timeline(model, "long_video.mp4"))     # scores over time

    logits = model(video)                              # (B, T, C, H, W) uint8 -> (B, K)
    features = model.features(video)                   # (B, D)

    config = vivit.recipes.finetune(vivit.DataConfig("my_videos"), init="vit-base")
    folder = vivit.train(config)
    result = vivit.evaluate(folder)
    run = vivit.load_run(folder)                       # run.config, run.metrics, run.results

Classes: ViViT (the model), Video (frames of a file), Sample (a video and its labels), Config and DataConfig (settings),
Evaluation, Explanation, Features, Prediction, Timeline, RunFolder. Modules: recipes (training runs by name), config,
errors.
Errors: VivitError and its children DataError, VideoError, WeightsError, FolderInUse, ProcessLost,
Stopped, WorkerDied.

Each block of docs/guides/python.md runs as printed.
"""

from __future__ import annotations

from os.path import dirname
from typing import TYPE_CHECKING, Any

from .install_check import warn_of_other_vivit

warn_of_other_vivit(dirname(__file__))

if TYPE_CHECKING:  # `name as name` makes a name public for type checkers
    from . import config as config
    from . import errors as errors
    from . import recipes as recipes
    from .api import RunFolder as RunFolder
    from .api import evaluate, load_run
    from .config import Config as Config
    from .config import DataConfig as DataConfig
    from .data.sample import Sample as Sample
    from .data.video.decoder import Video as Video
    from .engine.compare import compare
    from .engine.evaluation import Evaluation as Evaluation
    from .engine.train import train
    from .errors import DataError as DataError
    from .errors import FolderInUse as FolderInUse
    from .errors import ProcessLost as ProcessLost
    from .errors import Stopped as Stopped
    from .errors import VideoError as VideoError
    from .errors import VivitError as VivitError
    from .errors import WeightsError as WeightsError
    from .errors import WorkerDied as WorkerDied
    from .inference.explain import Explanation as Explanation
    from .inference.explain import explain
    from .inference.features import Features as Features
    from .inference.features import features
    from .inference.predict import predict
    from .inference.prediction import Prediction as Prediction
    from .inference.timeline import Timeline as Timeline
    from .inference.timeline import timeline
    from .model.rollout import attention_maps
    from .model.token_reduction import reduce_tokens
    from .model.vivit import ViViT as ViViT
    from .weights.load import create, from_pretrained
    from .weights.text_tower import zero_shot

    __version__: str

# help(vivit) prints these; the classes, which the docstring names, have pages of their own.
__all__ = [
    "attention_maps",
    "compare",
    "create",
    "evaluate",
    "explain",
    "features",
    "from_pretrained",
    "load_run",
    "predict",
    "reduce_tokens",
    "timeline",
    "train",
    "zero_shot",
]

# The module of each public name, imported at first use: `import vivit` and `vivit --help` do not import PyTorch.
_MODULES = {
    "Config": "config",
    "DataConfig": "config",
    "DataError": "errors",
    "Evaluation": "engine.evaluation",
    "Explanation": "inference.explain",
    "Features": "inference.features",
    "FolderInUse": "errors",
    "Prediction": "inference.prediction",
    "ProcessLost": "errors",
    "RunFolder": "api",
    "Sample": "data.sample",
    "Stopped": "errors",
    "Timeline": "inference.timeline",
    "ViViT": "model.vivit",
    "Video": "data.video.decoder",
    "VideoError": "errors",
    "VivitError": "errors",
    "WeightsError": "errors",
    "WorkerDied": "errors",
    "attention_maps": "model.rollout",
    "compare": "engine.compare",
    "create": "weights.load",
    "evaluate": "api",
    "explain": "inference.explain",
    "features": "inference.features",
    "from_pretrained": "weights.load",
    "load_run": "api",
    "predict": "inference.predict",
    "reduce_tokens": "model.token_reduction",
    "timeline": "inference.timeline",
    "train": "engine.train",
    "zero_shot": "weights.text_tower",
}
_SUBMODULES = ("config", "errors", "recipes")


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return getattr(import_module(f"vivit.{_MODULES[name]}"), name)
    if name in _SUBMODULES:
        return import_module(f"vivit.{name}")
    if name == "__version__":
        from .install_check import installed_version

        return installed_version("vivit")
    raise AttributeError(f"module 'vivit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(["__all__", "__doc__", "__file__", "__name__", "__path__", "__version__", *_MODULES, *_SUBMODULES])

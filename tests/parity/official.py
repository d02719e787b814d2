"""The official code's cases in tests/golden, as our configs and tensors."""

import json
from pathlib import Path

import numpy as np
import torch

from vivit.config import ModelConfig
from vivit.model.vivit import ViViT
from vivit.weights import scenic

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(p.parent.name for p in GOLDEN.glob("m[1-4]*/case.json"))

ENCODERS = {
    "spacetime": "spatiotemporal",
    "factorized_encoder": "factorised_encoder",
    "factorized_self_attention_block": "factorised_self_attention",
    "factorized_dot_product_attention": "factorised_dot_product",
}


def read_case(name: str) -> dict:
    return json.loads((GOLDEN / name / "case.json").read_text())


def model_config(case: dict) -> ModelConfig:
    sampled = case.get("n_sampled_frames")
    return ModelConfig(
        classes={"label": tuple(f"class {i}" for i in range(case["num_classes"]))},
        encoder=ENCODERS[case["attention"]],
        tokenizer="uniform_frames" if sampled else "tubelet",
        sampled_frames=sampled,
        tubelet_size=(1 if sampled else case["tubelet_t"], *case["patch_hw"]),
        num_frames=case["frames"],
        image_size=(case["height"], case["width"]),
        embed_dim=case["hidden_size"],
        depth=case["num_layers"],
        temporal_depth=0 if case.get("spatial_only") else case.get("temporal_num_layers", 0),
        num_heads=case["num_heads"],
        mlp_ratio=case["mlp_dim"] / case["hidden_size"],
        pool={"token": "cls", "gap": "mean"}[case["classifier"]],
        attention_order=case.get("attention_order", "time_space"),
    )


def load_case(name: str) -> tuple[ViViT, dict, dict[str, torch.Tensor]]:
    """The model with the case's parameters, the case, and its expected arrays."""
    case = read_case(name)
    model = ViViT(model_config(case)).eval()
    model.load_state_dict(scenic.to_vivit(scenic.read_msgpack(GOLDEN / name / "checkpoint_123")))
    with np.load(GOLDEN / name / "expected.npz") as arrays:
        expected = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    expected["video"] = expected.pop("video_BTHWC_uint8").movedim(-1, 2)
    return model, case, expected

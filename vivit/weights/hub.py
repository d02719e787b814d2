"""Upload a model to the Hugging Face hub, with a model card."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..config import ModelConfig, to_dict
from ..model.vivit import ViViT
from .save import save_pretrained

SHOWN_CLASSES = 20


def push_to_hub(
    model: ViViT,
    repo_id: str,
    *,
    results: Mapping[str, float | str] | None = None,
    recipe: str = "",
    license: str | None = None,
    private: bool = False,
) -> str:
    """Upload model.safetensors, config.json and a model card to `repo_id` ("owner/name"); return the URL.

    With them goes handler.py, by which a Hugging Face endpoint serves the model.
    results: rows of the card's table of results, 'Kinetics-400 top-1, 4 x 3 views' → 79.9. recipe: how it was trained,
    Markdown. Takes the token of `hf auth login`.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        text = model_card(model, repo_id, results=results, recipe=recipe, license=license)
        Path(folder, "README.md").write_text(text, encoding="utf-8")
        handler = Path(__file__).parents[1] / "serve" / "endpoint_handler.py"
        shutil.copy(handler, Path(folder, "handler.py"))
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload of a vivit model")
    return f"https://huggingface.co/{repo_id}"


def model_card(
    model: ViViT,
    repo_id: str,
    *,
    results: Mapping[str, float | str] | None = None,
    recipe: str = "",
    license: str | None = None,
) -> str:
    """Write the README.md of a model: use, architecture, classes, preprocessing, results and recipe, as Markdown."""
    config = model.config
    size = sum(p.numel() for p in model.parameters()) / 1e6
    head = ["library_name: vivit", "pipeline_tag: video-classification", "tags: [vivit, video]"]
    head += [f"license: {license}"] if license else []
    shape = f"{config.num_frames} frames of {config.image_size[0]} x {config.image_size[1]}"
    parts = {
        "Use": f'```python\nimport vivit\n\nmodel = vivit.from_pretrained("{repo_id}")\n'
        'print(vivit.predict(model, "clip.mp4"))\n```',
        "Model": f"A {config.encoder} ViViT on {shape}, {size:.1f} million parameters.\n\n"
        f"{_table(_architecture(config))}",
        "Classes": "\n\n".join(_classes(name, names) for name, names in config.classes.items()) or "None.",
        "Preprocessing": _table(to_dict(config.preprocessing)),
        "Results": _table(results) if results else "Not measured.",
        "Recipe": recipe or "Not given.",
    }
    front = "\n".join(["---", *head, "---", "", f"# {repo_id.rpartition('/')[2]}"])
    return "\n\n".join([front, *(f"## {title}\n\n{text}" for title, text in parts.items())]) + "\n"


def _architecture(config: ModelConfig) -> dict[str, object]:
    return {name: value for name, value in to_dict(config).items() if name not in ("classes", "preprocessing")}


def _classes(name: str, names: tuple[str, ...]) -> str:
    more = f" … and {len(names) - SHOWN_CLASSES} more, in config.json" if len(names) > SHOWN_CLASSES else ""
    return f"`{name}`, {len(names)}: {', '.join(names[:SHOWN_CLASSES])}{more}"


def _table(values: Mapping[str, object]) -> str:
    rows = [f"| {name} | {value if isinstance(value, str) else json.dumps(value)} |" for name, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows])

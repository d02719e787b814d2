"""VideoPrism models of transformers with random weights, in transformers' format and in that of the official release.

    python -m tests.weights.prism [narrow] [B] [L] [vision] [video-text] [classification]

prints the table of differences in docs/guides/weights.md, of all shapes and models or of the named ones. Those of the
released widths take half a minute of a CPU core and up to 4 GiB of memory each.
"""

import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.initialization import no_init_weights

import vivit

from .random_weights import randomise

NARROW = {
    "image_size": 24,
    "num_frames": 4,
    "tubelet_size": (1, 4, 4),
    "hidden_size": 48,
    "num_spatial_layers": 2,
    "num_temporal_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_auxiliary_layers": 2,
    "attn_logit_softcapping": 2.0,
    "num_labels": 5,
}
RELEASED = {  # VideoPrism-B; the cap is what the official .npz implies
    "image_size": 288,
    "num_frames": 16,
    "tubelet_size": (1, 18, 18),
    "hidden_size": 768,
    "num_spatial_layers": 12,
    "num_temporal_layers": 4,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "attn_logit_softcapping": 50.0,
    "num_labels": 400,
}
SHAPES = {
    "narrow": {"attn_logit_softcapping": 50.0},
    "B": RELEASED,
    "L": RELEASED
    | {
        "num_frames": 8,
        "hidden_size": 1024,
        "num_spatial_layers": 4,  # of 24, for time and memory
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}
FORMATS = ("Hugging Face", "official .npz")
KINDS = {
    "vision": transformers.VideoPrismVisionModel,
    "video-text": transformers.VideoPrismVideoModel,
    "classification": transformers.VideoPrismForVideoClassification,
}
TEXT = {
    "vocab_size": 60,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 9,
    "attn_logit_softcapping": 2.0,
}


def their_model(kind, **changes):
    """A model of transformers in which every parameter has an effect."""
    with no_init_weights():  # which takes as long as what follows
        model = KINDS[kind](transformers.VideoPrismVisionConfig(**NARROW | changes))
    return randomise(model)


def their_clip(text=None, **changes):
    """A video-text model of transformers in which every parameter has an effect."""
    config = transformers.VideoPrismConfig(vision_config=NARROW | changes, text_config=TEXT | (text or {}))
    return randomise(transformers.VideoPrismClipModel(config))


def official_arrays(model):
    """The parameters of a model of transformers as the official .npz holds them: one array for all layers of a stack.

    The official mapping, the other way round; see convert_videoprism_weights_to_hf.py of transformers' history.
    """
    state = {name.removeprefix("video_model."): x.detach().numpy() for name, x in model.state_dict().items()}
    state = {name.removeprefix("vision_model."): x for name, x in state.items()}
    kind = type(model).__name__
    c = model.config.vision_config if "Clip" in kind else model.config
    vision = {
        "VideoPrismVisionModel": "params",
        "VideoPrismVideoModel": "params/vision_encoder",
        "VideoPrismClipModel": "params/vision_encoder",
        "VideoPrismForVideoClassification": "params/encoder",
    }[kind]
    pool = "params/atten_pooler" if "Classification" in kind else "params/contrastive_vision_pooler"
    heads, p = c.num_attention_heads, c.tubelet_size[1]

    def to_heads(weight):  # (a·k, D) → (D, a, k)
        return weight.T.reshape(weight.shape[1], heads, -1)

    def attention(theirs, ours, start, out):
        for name, flax in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            out[f"{ours}/{flax}/w"] = to_heads(state[f"{start}{theirs}.{name}.weight"])
            out[f"{ours}/{flax}/b"] = state[f"{start}{theirs}.{name}.bias"].reshape(heads, -1)
        weight = state[f"{start}{theirs}.o_proj.weight"]
        out[f"{ours}/post/w"] = weight.reshape(len(weight), heads, -1)
        out[f"{ours}/post/b"] = state[f"{start}{theirs}.o_proj.bias"]

    def norm(theirs, ours, out):
        out[f"{ours}/scale"], out[f"{ours}/bias"] = state[f"{theirs}.weight"], state[f"{theirs}.bias"]

    def stack(theirs, ours, depth, inner="transformers_stack"):
        layers = []
        for i in range(depth):
            start, layer = f"{theirs}.{i}.", {}
            attention("attention", "self_attention", start, layer)
            norm(f"{start}layernorm_before", "layer_norm", layer)
            norm(f"{start}layernorm_after", "ff_layer/layer_norm", layer)
            for n in (1, 2):
                layer[f"ff_layer/ffn_layer{n}/linear/kernel"] = state[f"{start}mlp.fc{n}.weight"].T
                layer[f"ff_layer/ffn_layer{n}/linear/bias"] = state[f"{start}mlp.fc{n}.bias"]
            layers.append(layer)
        for name in layers[0]:
            arrays[f"{ours}/{inner}/x_layers/{name}"] = np.stack([layer[name] for layer in layers])

    kernel = state["spatial_embeddings.patch_embeddings.projection.weight"]  # (D, 3, 1, p, p)
    arrays = {
        f"{vision}/patch_projection/linear/kernel": kernel[:, :, 0].transpose(2, 3, 1, 0).reshape(p * p * 3, -1),
        f"{vision}/patch_projection/linear/bias": state["spatial_embeddings.patch_embeddings.projection.bias"],
        f"{vision}/spatial_pos_emb/emb_var": state["spatial_embeddings.position_embeddings"][0],
        f"{vision}/temporal_pos_emb/emb_var": state["temporal_embeddings.position_embeddings"][0],
    }
    norm("layernorm1", f"{vision}/spatial_ln", arrays)
    norm("layernorm2", f"{vision}/temporal_ln", arrays)
    stack("spatial_layers", f"{vision}/spatial_encoder", c.num_spatial_layers)
    stack("temporal_layers", f"{vision}/temporal_encoder", c.num_temporal_layers)
    if kind in ("VideoPrismVideoModel", "VideoPrismClipModel") and c.num_auxiliary_layers:
        stack("auxiliary_layers", "params/auxiliary_encoder", c.num_auxiliary_layers)
    if "head.per_dim_scale" in state:
        attention("head", f"{pool}/pooling_attention", "", arrays)
        arrays[f"{pool}/pooling_attention/per_dim_scale/per_dim_scale"] = state["head.per_dim_scale"]
        arrays[f"{pool}/pooling_attention_query"] = state["head.pooling_attention_query"][0]
        norm("head_layernorm", f"{pool}/pooling_attention_layer_norm", arrays)
    if "classifier.weight" in state:
        arrays["params/projection/linear/kernel"] = state["classifier.weight"].T
        arrays["params/projection/linear/bias"] = state["classifier.bias"]
    if "Clip" in kind:
        embeddings, text = "text_model.embeddings", "params/text_encoder"
        arrays[f"{text}/cls_emb"] = state[f"{embeddings}.cls_emb"]
        arrays[f"{text}/token_emb/emb_var"] = state[f"{embeddings}.token_embedding.weight"]
        norm("text_model.layernorm", f"{text}/unimodal_ln", arrays)
        stack("text_model.layers", text, model.config.text_config.num_hidden_layers, "unimodal_transformer")
    return arrays


def save(model, folder, format):
    """Write a model of transformers into `folder`; return what vivit.from_pretrained takes."""
    if format == "Hugging Face":
        model.save_pretrained(folder)
        return folder
    np.savez(Path(folder) / "flax.npz", **official_arrays(model))
    return Path(folder) / "flax.npz"


@torch.no_grad()
def difference(theirs, ours, video):
    """The largest difference of all outputs that the two have in common, relative to the largest number of each.

    Tokens, tokens averaged over each frame, and pooled features of the vision and video-text models; logits of the
    classifier.
    """
    out = theirs(video, interpolate_pos_encoding=True)
    encoder = ours.encoder
    if hasattr(out, "logits"):
        pairs = [(ours(video), out.logits.squeeze(1))]
    else:
        tokens = encoder.temporal.encode_tokens(encoder.encode_space(ours.tokenize(video)))
        their_tokens = out.last_hidden_state.unflatten(1, tokens.shape[1:3])
        pooled = their_tokens.mean(dim=(1, 2)) if ours.config.joint_depth == 0 else out.pooler_output.squeeze(1)
        pairs = [(tokens, their_tokens), (tokens.mean(2), their_tokens.mean(2)), (ours.features(video), pooled)]
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def main(asked):
    """Print the table: a row a model, shape, format and input. `asked` are names of shapes and of models, none: all."""
    shapes, kinds = ([name for name in names if name in asked] or names for names in (SHAPES, KINDS))
    print("| model | shape | format | input | relative difference |\n|---|---|---|---|---|")
    for shape, kind in itertools.product(shapes, kinds):
        theirs = their_model(kind, **SHAPES[shape])
        c, patch = theirs.config, theirs.config.tubelet_size[1]
        own, halved = (c.num_frames, c.image_size), (c.num_frames // 2, c.image_size // 2 // patch * patch)
        for format in FORMATS:
            sizes = [own, halved] if shape == "narrow" and format == FORMATS[0] else [halved]  # for time
            with tempfile.TemporaryDirectory() as folder:
                ours = vivit.from_pretrained(save(theirs, folder, format))
                for frames, side in sizes:
                    ours.resize(num_frames=frames, image_size=(side, side))
                    video = torch.rand(1, frames, 3, side, side, generator=torch.Generator().manual_seed(0))
                    found = difference(theirs, ours, video)
                    print(f"| {kind} | {shape} | {format} | {frames} x {side} x {side} | {found:.1e} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

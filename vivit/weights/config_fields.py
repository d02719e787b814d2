"""Check every field of a config.json of transformers: it is read, says what the tensors have, or changes nothing here.

transformers ignores fields that it does not know; here they are refused, since they may belong to another model.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from .assemble import MappedTensor, join

# Fields of any model that change no feature. About the file, the outputs of transformers' classes, the classes, …
FILE = {
    *("architectures", "dtype", "torch_dtype", "model_type", "transformers_version", "_name_or_path", "_commit_hash"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "torchscript", "use_bfloat16"),
    *("output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward", "tf_legacy_loss"),
    *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params"),
}
# … about training, …
TRAINING = {
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout", "drop_path_rate"),
    *("initializer_range", "initializer_factor", "layerscale_value", "gradient_checkpointing"),
}
# … and about text, which earlier releases of transformers wrote for every model.
TEXT = {
    *("is_decoder", "is_encoder_decoder", "add_cross_attention", "cross_attention_hidden_size", "tokenizer_class"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "prefix"),
    *("tie_word_embeddings", "tie_encoder_decoder", "max_length", "min_length", "do_sample", "early_stopping"),
    *("num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p"),
    *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate"),
    *("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty"),
    *("suppress_tokens", "begin_suppress_tokens"),
}
NEUTRAL = FILE | TRAINING | TEXT

# Model type → its own fields that change no feature: poolers, decoders, predictors and backbones that are not read
POOLER = {"encoder_stride", "pooler_output_size", "pooler_act"}
BACKBONE = {"apply_layernorm", "reshape_hidden_states", "stage_names", "out_features", "out_indices"}
DINO = BACKBONE | {"use_mask_token", "interpolate_antialias", "interpolate_offset"}
UNUSED: dict[str, set[str]] = {
    "vivit": POOLER | {"video_size"},
    "videomae": {
        *("decoder_num_attention_heads", "decoder_hidden_size", "decoder_num_hidden_layers"),
        *("decoder_intermediate_size", "norm_pix_loss"),
    },
    "vit": POOLER,
    "deit": POOLER,
    "dinov2": DINO,
    "dinov2_with_registers": DINO,
    "dinov3_vit": BACKBONE | {"pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"},
    "vjepa2": {
        *("pred_hidden_size", "pred_num_attention_heads", "pred_num_hidden_layers", "pred_num_mask_tokens"),
        *("pred_zero_init_mask_tokens", "pred_mlp_ratio", "wide_SiLU"),
    },
    "clip": {"projection_dim"},
    "siglip": set(),
}

# Model type → its fields that the reader, `check_config` or `check_shapes` takes into account
SIZES = {"hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps", "image_size"}
IMAGE = SIZES | {"intermediate_size", "patch_size", "num_channels"}
DINO_2 = (IMAGE - {"intermediate_size"}) | {"mlp_ratio", "qkv_bias", "use_swiglu_ffn"}
READ: dict[str, set[str]] = {
    "vivit": SIZES | {"intermediate_size", "num_channels", "num_frames", "tubelet_size", "qkv_bias"},
    "videomae": IMAGE | {"num_frames", "tubelet_size", "qv_bias", "qkv_bias", "use_mean_pooling"},
    "vit": IMAGE | {"qkv_bias"},
    "deit": IMAGE | {"qkv_bias"},
    "dinov2": DINO_2,
    "dinov2_with_registers": DINO_2 | {"num_register_tokens"},
    "dinov3_vit": IMAGE
    | {"query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias"}
    | {"use_gated_mlp", "num_register_tokens", "rope_theta"},
    "vjepa2": SIZES
    | {"crop_size", "frames_per_clip", "patch_size", "tubelet_size", "in_chans", "mlp_ratio", "qkv_bias"}
    | {"num_pooler_layers"},
    "clip": IMAGE,
    "siglip": IMAGE | {"vision_use_head"},
}

# Fields around the configs of two towers
AROUND = {
    *("text_config", "vision_config", "text_config_dict", "vision_config_dict", "projection_dim"),
    *("logit_scale_init_value", "initializer_factor"),
}
# Fields that any model may have as long as they are off
JEPA_2_1 = ("use_rope_interleave", "interpolate_rope", "use_modality_embeddings", "use_image_patch_embedder")
JEPA_2_1 += ("use_context_projection", "hierarchical_layers", "teacher_embed_dim")
OFF: dict[str, str] = {
    "pruned_heads": "attention heads are missing",
    "use_SiLU": "a gated MLP",
    **dict.fromkeys(JEPA_2_1, "a V-JEPA 2.1, which is not read"),
}


def check_fields(config: Mapping[str, Any], known: Set[str], where: str = "config.json") -> None:
    """Check that every field of `config` is `known`, changes nothing, or is null. Raises ValueError with its name."""
    if on := [name for name in OFF if config.get(name)]:
        raise ValueError(f"{where}: {on[0]} is {str(config[on[0]])[:60]}: {OFF[on[0]]}")
    values = {name: config[name] for name in sorted(set(config) - known - NEUTRAL - set(OFF))}
    if unknown := [f"{name} {str(value)[:40]}" for name, value in values.items() if value is not None]:
        raise ValueError(
            f"{where} has {join(unknown)}, which this release does not know: it may be another model. Remove from the "
            "file what changes no feature"
        )


def check_shapes(config: Mapping[str, Any], mapped: Mapping[str, MappedTensor]) -> None:
    """Check that the sizes in `config` are those of the tensors, by our names. Raises ValueError with the field."""
    shapes = {name: list(entry.tensor.shape) for name, entry in mapped.items()}
    width, channels, *patch = shapes["tokenizer.proj.weight"]
    hidden = shapes.get("encoder.blocks.0.mlp.fc1.weight", [0])[0]
    depth, side, ratio = (config.get(name) for name in ("tubelet_size", "patch_size", "mlp_ratio"))
    found = {
        "hidden_size": width,
        "num_channels": channels,
        "in_chans": channels,
        "tubelet_size": patch[0] if isinstance(depth, int) else patch,
        "patch_size": patch[-1] if isinstance(side, int) and patch[-1] == patch[-2] else patch[-2:],
        "intermediate_size": hidden,
        "mlp_ratio": ratio if isinstance(ratio, int | float) and int(width * ratio) == hidden else hidden / width,
        "num_labels": shapes.get("head.weight", [config.get("num_labels")])[0],
    }
    for name, there in found.items():
        if config.get(name) not in (None, there):
            raise ValueError(f"config.json: {name} is {str(config[name])[:60]}; the tensors have {there}")

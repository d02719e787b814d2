"""Classes in words: VideoPrism's text tower against transformers', and the tokenizers against their libraries."""

import json
import math

import numpy as np
import pytest
import sentencepiece
import tokenizers
import torch

import vivit
from vivit.errors import WeightsError
from vivit.weights.text_tower import canonical, load_text_tower, load_tokenizer, tokenize

from .prism import TEXT, save, their_clip, their_model

CLASSES = ["a person runs", "a person jumps", "the dog sits"]
WORDS = ["<pad>", "<unk>", "a", "person", "runs", "jumps", "the", "dog", "sits", "video", "of", "."]


def save_tokenizer(folder):
    """A tokenizer.json that knows the words above."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("$A a", special_tokens=[("a", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def save_pieces(folder, name="spiece.model", **options):
    """A SentencePiece model of a few sentences."""
    text = [canonical(f"a video of {name}") for name in CLASSES] * 3
    options = {"bos_id": -1, "eos_id": 1, "pad_id": 0, "unk_id": 2} | options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(folder / name[:-6]),
        vocab_size=24,
        hard_vocab_limit=False,
        minloglevel=9,
        **options,
    )
    return folder


def official_positions(n, width):
    """Position p, channel i: sin(p · 10000^(-i / (width/2 - 1))), then the cosines; as in the official code."""
    table = np.empty((n, width))
    for p in range(n):
        for i in range(width // 2):
            angle = p * math.exp(-i * math.log(10_000) / (width // 2 - 1))
            table[p, i], table[p, width // 2 + i] = math.sin(angle), math.cos(angle)
    return torch.tensor(table, dtype=torch.float32)


def padded_ids(lengths, n=TEXT["max_position_embeddings"]):
    ids = torch.randint(1, TEXT["vocab_size"], (len(lengths), n))
    mask = torch.arange(n) < torch.tensor(lengths)[:, None]
    return ids * mask, mask


@pytest.mark.parametrize("unit_length", [True, False])
def test_text_of_any_length_gets_the_vectors_of_transformers(unit_length, tmp_path):
    theirs = their_clip({"apply_l2norm": unit_length})
    tower = load_text_tower(save(theirs, tmp_path, "Hugging Face"))
    ids, mask = padded_ids([1, 4, 9, 7])
    with torch.no_grad():
        expected = theirs.text_model(ids, attention_mask=mask.long()).pooler_output
        found = tower(ids, mask)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    other = ids.clone()
    other[0, 5] = 3  # padding has no effect
    assert torch.equal(tower(other, mask)[0], found[0])


def test_the_official_npz_gives_the_same_text_vectors_with_its_own_positions(tmp_path):
    theirs = their_clip({"attn_logit_softcapping": 50.0, "max_position_embeddings": 64}, attn_logit_softcapping=50.0)
    theirs.text_model.embeddings.position_embedding.copy_(official_positions(64, 48))
    path = save(theirs, tmp_path, "official .npz")
    ids, mask = padded_ids([5, 64], 64)
    with torch.no_grad():
        expected = theirs.text_model(ids, attention_mask=mask.long()).pooler_output
        found = load_text_tower(path)(ids, mask)
        video = torch.rand(2, 4, 3, 24, 24)
        their_video = theirs.video_model(video).pooler_output.squeeze(1)
        ours = vivit.from_pretrained(path).features(video)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    assert float((ours - their_video).abs().max() / their_video.abs().max()) < 1e-5


def test_zero_shot_logits_are_cosines_over_the_temperature(tmp_path):
    theirs = their_clip({"max_position_embeddings": 12})
    folder = save_tokenizer(save(theirs, tmp_path, "Hugging Face"))
    model = vivit.zero_shot(folder, CLASSES)
    assert model.config.classes == {"label": tuple(CLASSES)}
    texts = [f"a video of {name} ." for name in CLASSES]
    ids = torch.zeros(3, 12, dtype=torch.int64)
    for row, text in enumerate(texts):
        for column, word in enumerate(text.split()):
            ids[row, column] = WORDS.index(word)
    video = torch.rand(2, 4, 3, 24, 24)
    with torch.no_grad():
        out = theirs(video, ids, attention_mask=(ids > 0).long())
        expected = (out.video_embeds @ out.text_embeds.T) / 0.01
        found = model(video)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    again = vivit.from_pretrained(model.save_pretrained(tmp_path / "own"))
    with torch.no_grad():
        assert torch.equal(again(video), found)
    assert "a video of {}" in str(model.load_report)


def test_canonical_text_is_that_of_the_official_code():
    """The examples of their docstring."""
    for text, expected in {
        "Hello, World!": "hello world.",
        "Hello,World..": "hello world.",
        "  Hello   WORLD": "hello world.",
    }.items():
        assert canonical(text) == expected


def test_sentencepiece_models_are_read(tmp_path):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(save_pieces(tmp_path) / "spiece.model"))
    encode = load_tokenizer(tmp_path)
    assert encode("a person runs.") == pieces.encode("a person runs.")
    (tmp_path / "bos").mkdir()
    assert load_tokenizer(save_pieces(tmp_path / "bos", bos_id=3))("a dog.")[0] == 3


def test_long_texts_are_cut_and_unknown_tokens_refused(tmp_path):
    tower = load_text_tower(save(their_clip(), tmp_path, "Hugging Face"))
    ids, mask = tokenize(["x"], lambda text: [5] * 20, tower.config)
    assert ids.tolist() == [[5] * 9]
    assert mask.all()
    with pytest.raises(ValueError, match="knows 60"):
        tokenize(["x"], lambda text: [60], tower.config)


def test_what_is_missing_is_named(tmp_path):
    vision = save(their_model("vision"), tmp_path / "vision", "Hugging Face")
    with pytest.raises(WeightsError, match="no text tower"):
        vivit.zero_shot(vision, CLASSES)
    clip = save(their_clip(), tmp_path / "clip", "Hugging Face")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        vivit.zero_shot(clip, CLASSES)
    (clip / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="not a tokenizer"):
        vivit.zero_shot(clip, CLASSES)
    for wrong in ("runs", ["runs"], [1, 2]):
        with pytest.raises(ValueError, match="two or more texts"):
            vivit.zero_shot(clip, wrong)


@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden_act", "gelu"), ("num_hidden_layers", 3), ("num_attention_heads", 5), ("rope", 1), ("vocab_size", 61)],
)
def test_a_text_config_that_does_not_fit_is_refused(field, value, tmp_path):
    save(their_clip(), tmp_path, "Hugging Face")
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"][field] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError):
        load_text_tower(tmp_path)

"""The recipes say what the paper's table says, and the modern ones differ from it where they claim to."""

import pytest

from vivit.config import differences
from vivit.recipes import RECIPES
from vivit.recipes.paper import paper

# The hyper-parameters of the paper (its appendix), typed from there; the last two rows are from section 4.1 and the
# released configs.
TABLE = """
                                   kinetics400  kinetics600  moments  epic_kitchens  ssv2
momentum                           0.9          0.9          0.9      0.9            0.9
batch size                         64           64           64       64             64
linear warm-up, epochs             2.5          2.5          2.5      2.5            2.5
gradient clip                      1            1            1        1              1
base learning rate                 0.1          0.1          0.25     0.5            0.5
epochs                             30           30           10       50             35
flip                               0.5          0.5          0.5      0.5            0.5
scale jitter, least                0.9          0.9          0.9      0.9            0.9
scale jitter, most                 1.33         1.33         1.33     1.33           1.33
colour jitter                      0.8          0.8          0.8      -              -
RandAugment layers                 -            -            -        2              2
RandAugment magnitude              -            -            -        15             20
stochastic depth                   -            -            -        0.2            0.3
label smoothing                    -            -            -        0.2            0.3
mixup                              -            -            -        0.1            0.3
frames                             32           32           32       32             32
frame stride                       2            2            2        1              1
"""
FIELDS = {
    "momentum": lambda c: c.optim.momentum,
    "batch size": lambda c: c.optim.batch_size,
    "linear warm-up, epochs": lambda c: c.optim.warmup_epochs,
    "gradient clip": lambda c: c.optim.grad_clip,
    "base learning rate": lambda c: c.optim.lr,
    "epochs": lambda c: c.optim.epochs,
    "flip": lambda c: c.augment.flip,
    "scale jitter, least": lambda c: c.augment.scale_jitter[0],
    "scale jitter, most": lambda c: c.augment.scale_jitter[1],
    "colour jitter": lambda c: c.augment.color_jitter,
    "RandAugment layers": lambda c: c.augment.rand_augment_layers,
    "RandAugment magnitude": lambda c: c.augment.rand_augment_magnitude if c.augment.rand_augment_layers else 0,
    "stochastic depth": lambda c: c.model.drop_path,
    "label smoothing": lambda c: c.optim.label_smoothing,
    "mixup": lambda c: c.augment.mixup,
    "frames": lambda c: c.model.num_frames,
    "frame stride": lambda c: c.model.preprocessing.frame_stride,
}
DATASETS = TABLE.split("\n")[1].split()


def cells():
    for line in TABLE.strip("\n").split("\n")[1:]:
        name, values = line[:35].strip(), line[35:].split()
        for dataset, value in zip(DATASETS, values, strict=True):
            yield dataset, name, 0.0 if value == "-" else float(value)


def test_every_field_of_the_papers_table_is_in_its_recipe():
    found = {(dataset, name): FIELDS[name](RECIPES[f"paper/{dataset}"]()) for dataset, name, _ in cells()}
    assert found == {(dataset, name): value for dataset, name, value in cells()}
    assert len(found) == 5 * len(FIELDS)


@pytest.mark.parametrize("dataset", DATASETS)
def test_nothing_of_later_work_is_in_the_papers_recipes(dataset):
    """SGD without decay or average, one rate for all layers, every video mirrored, the annotations of its own name."""
    config = RECIPES[f"paper/{dataset}"]()
    o, a = config.optim, config.augment
    assert (o.name, o.weight_decay, o.ema, o.layer_decay, o.freeze) == ("sgd", 0, None, 1, ())
    assert (a.cutmix, a.random_erasing, a.repeats, a.flip_directed) == (0, 0, 1, True)
    assert config.eval.temporal_views == 4
    assert config.data.dataset == dataset
    assert config.model.temporal_depth == 4


def test_the_main_model_is_large_and_an_ablation_is_one_argument_away():
    model = RECIPES["paper/kinetics400"]().model
    assert (model.encoder, model.embed_dim, model.depth, model.num_heads) == ("factorised_encoder", 1024, 24, 16)
    assert (model.tubelet_size, model.image_size, model.pool) == ((2, 16, 16), (224, 224), "cls")
    ablation = RECIPES["paper/epic_kitchens"]("ViViT-B/16x2").model
    assert (ablation.encoder, ablation.embed_dim, ablation.drop_path) == ("spatiotemporal", 768, 0.2)


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_modern_recipes_keep_the_papers_clip_and_change_how_it_learns(dataset):
    model = "ViViT-B/16x2 FE"
    changed = {line.split(":")[0] for line in differences(paper(dataset, model), RECIPES[f"modern/{dataset}"](model))}
    everywhere = {f"optim.{name}" for name in ("name", "lr", "batch_size", "ema", "layer_decay", "weight_decay")}
    everywhere |= {f"augment.{name}" for name in ("flip_directed", "mixup", "cutmix", "random_erasing", "repeats")}
    assert everywhere | {"run"} <= changed
    kinetics = {"model.drop_path", "optim.label_smoothing"}
    own = {
        "kinetics400": kinetics | {"augment.grayscale"},
        "kinetics600": kinetics | {"augment.grayscale"},
        "moments": kinetics,
        "epic_kitchens": {"model.image_size", "model.preprocessing.frame_stride", "optim.warmup_epochs"},
        "ssv2": set(),
    }
    assert changed - everywhere - {"run"} == own[dataset]


# What the TAdaConv zoo publishes for the same model, typed from its page.
ZOO = {
    "kinetics400": {"lr": 1e-4, "weight_decay": 0.1, "batch_size": 256, "ema": 0.999, "label_smoothing": 0.1},
    "epic_kitchens": {"lr": 1e-4, "weight_decay": 0.05, "batch_size": 128, "label_smoothing": 0.2},
}


@pytest.mark.parametrize("dataset", ZOO)
def test_the_modern_recipes_have_the_published_settings(dataset):
    config = RECIPES[f"modern/{dataset}"]()
    assert {name: getattr(config.optim, name) for name in ZOO[dataset]} == ZOO[dataset]
    assert config.augment.mixup == 0.2
    assert config.model.drop_path == {"kinetics400": 0.1, "epic_kitchens": 0.2}[dataset]


@pytest.mark.parametrize("name", [name for name in RECIPES if "/" in name])
def test_a_recipe_says_its_command_its_reference_and_whether_it_was_run(name):
    text = RECIPES[name].__doc__ or ""
    assert f"vivit train {name} --data.root" in text
    assert "Reference" in text
    assert "Not run by us" in " ".join(text.split())

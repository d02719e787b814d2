"""Mixup and cutmix: what is mixed does not depend on how a batch is divided, and neither does the loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vivit.config import AugmentConfig
from vivit.data.loader import Batch
from vivit.engine.distributed import World
from vivit.engine.losses import cross_entropy
from vivit.engine.mix import Draw, draw, micro_batches, mix_pair
from vivit.engine.train import train

from .tiny import ALONE, assert_equal_runs, mixed_config, train_and_stop

BOTH = AugmentConfig(mixup=0.3, cutmix=1.0)
SIZE = (20, 30)


def batch_of(n, weights=None):
    video = torch.randint(0, 256, (n, 2, 3, *SIZE), dtype=torch.uint8)
    labels = torch.stack([torch.arange(n), torch.arange(n) % 2], dim=1)
    weights = torch.ones(n) if weights is None else torch.tensor(weights)
    return Batch(video, labels, weights, torch.arange(n), tuple(range(n)), {})


def mixing(batch, size=None, augment=BOTH, world=ALONE):
    return list(micro_batches(batch, size, augment, seed=1, step=2, world=world))


def draws(augment, n=2000):
    return [draw(augment, seed=1, step=2, pair=pair, image_size=SIZE) for pair in range(n)]


def test_mixup_is_the_weighted_mean_of_two_clips():
    video = batch_of(2).video
    got = mix_pair(video, Draw(0.7031, None))
    expected = np.rint(0.7031 * video.numpy() + 0.2969 * video.numpy()[::-1]).astype(np.uint8)
    assert np.abs(got.numpy().astype(int) - expected).max() <= 1  # float32 may stand on the other side of a half
    assert (got.numpy() == expected).mean() > 0.999


def test_cutmix_swaps_a_box_of_two_clips():
    video = batch_of(2).video
    got = mix_pair(video, Draw(0.9, (slice(2, 8), slice(5, 15))))
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[2:8, 5:15] = True
    assert bool((got == torch.where(inside, video.flip(0), video)).all())


def test_shares_follow_the_beta_distribution_and_boxes_have_the_area_they_say():
    ups = np.array([how.lam for how in draws(AugmentConfig(mixup=0.3))])
    assert ups.mean() == pytest.approx(0.5, abs=0.03)
    assert ups.var() == pytest.approx(0.25 / 1.6, abs=0.01)  # of Beta(a, a): 1 / (4 (2a + 1))
    for how in draws(AugmentConfig(cutmix=1.0)):
        rows, columns = how.box
        seen = np.zeros(SIZE)
        seen[rows, columns] = 1
        assert how.lam == pytest.approx(1 - seen.mean())
    kinds = [how.box is None for how in draws(BOTH)]
    assert np.mean(kinds) == pytest.approx(0.5, abs=0.05)


def test_a_draw_is_a_function_of_seed_step_and_pair():
    def shares(seed=0, step=0):
        return [draw(BOTH, seed=seed, step=step, pair=pair, image_size=SIZE).lam for pair in range(5)]

    assert shares() == shares()
    assert len({*shares(), *shares(seed=1), *shares(step=1)}) == 15


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 100])
def test_micro_batches_of_any_size_are_mixed_alike(size):
    batch = batch_of(8)
    (whole,) = mixing(batch)
    divided = mixing(batch, size)
    assert [part.last for part in divided] == [False] * (len(divided) - 1) + [True]
    assert all(len(part.video) <= size for part in divided)
    for name in ("video", "labels", "weights", "seeds", "partner_labels", "lam"):
        assert bool((torch.cat([getattr(part, name) for part in divided]) == getattr(whole, name)).all())
    assert bool((whole.partner_labels == batch.labels[[1, 0, 3, 2, 5, 4, 7, 6]]).all())
    assert not bool((whole.video == batch.video).flatten(1).all(1).any())


def test_processes_mix_their_pairs_as_one_process_does():
    batch = batch_of(8)
    (whole,) = mixing(batch)
    for rank in range(2):
        places = [i for pair in range(rank, 4, 2) for i in (2 * pair, 2 * pair + 1)]
        tensors = (x[places] for x in (batch.video, batch.labels, batch.weights, batch.seeds))
        world = World(rank, 2, torch.device("cpu"))
        (lam,) = mixing(Batch(*tensors, tuple(places), {}), world=world)
        for name in ("video", "labels", "partner_labels", "lam"):
            assert bool((getattr(lam, name) == getattr(whole, name)[places]).all())


def test_a_clip_whose_partner_cannot_be_read_stays_as_it_is():
    batch = batch_of(6, weights=[1.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    (part,) = mixing(batch)
    assert bool((part.video[2:] == batch.video[2:]).all())
    assert bool((part.partner_labels[2:] == part.labels[2:]).all())
    assert part.lam[2:].tolist() == [1, 1, 1, 1]
    assert part.lam[0] < 1


@pytest.mark.parametrize("size", [None, 3])
def test_without_mixing_micro_batches_are_the_batch_in_parts(size):
    batch = batch_of(7)
    divided = mixing(batch, size, AugmentConfig())
    assert [len(part.video) for part in divided] == ([7] if size is None else [3, 3, 1])
    for name in ("video", "labels", "weights", "seeds"):
        assert bool((torch.cat([getattr(part, name) for part in divided]) == getattr(batch, name)).all())
    assert all(part.partner_labels is part.lam is None for part in divided)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_loss_of_a_mixed_clip_is_that_of_soft_labels_in_every_label_set(label_smoothing):
    sizes, logits = (5, 3), torch.randn(4, 8)
    labels, partner_labels = (torch.stack([torch.randint(k, (4,)) for k in sizes], dim=1) for _ in range(2))
    lam = torch.tensor([1.0, 0.25, 0.5, 0.9])
    got = cross_entropy(logits, labels, sizes, label_smoothing=label_smoothing, partner_labels=partner_labels, lam=lam)
    losses = []
    for i, part in enumerate(logits.split(sizes, dim=1)):
        one, other = (F.one_hot(x[:, i], sizes[i]).float() for x in (labels, partner_labels))
        soft = lam[:, None] * one + (1 - lam[:, None]) * other
        losses.append(F.cross_entropy(part, soft, label_smoothing=label_smoothing, reduction="none"))
    torch.testing.assert_close(got, torch.stack(losses).mean(0))


def test_a_run_with_everything_on_stopped_and_continued_equals_the_uninterrupted_one(config, mixed_run):
    config = mixed_config(config)
    train_and_stop(config, 4)
    train(config)
    assert_equal_runs(config.run, mixed_run)

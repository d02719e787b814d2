"""The stream of batches: the same for any number of workers and from any step on."""

import pytest
import torch

from vivit.config import AugmentConfig, DataConfig, EvalConfig, ModelConfig
from vivit.data.dataset import EvalVideos, TrainClips
from vivit.data.loader import eval_loader, sample_order, train_loader
from vivit.data.sample import Sample

from .videos import counter_frames, write_video

MODEL = ModelConfig(num_frames=4, image_size=(16, 16), tubelet_size=(2, 8, 8))
BROKEN = 3


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Seven videos of different sizes, one of them broken."""
    folder = tmp_path_factory.mktemp("loader")
    paths = [write_video(folder / f"{i}.mp4", counter_frames(12 + i, 32 + 2 * i, 48)) for i in range(7)]
    paths[BROKEN].write_bytes(paths[BROKEN].read_bytes()[:100])
    return [Sample(str(path)) for path in paths]


def loader(samples, *, workers=0, first_step=0, steps=6, batch_size=3, seed=5, rank=0, ranks=1):
    labels = torch.arange(len(samples))[:, None]
    clips = TrainClips(
        samples, labels, model=MODEL, data=DataConfig(workers=workers), augment=AugmentConfig(), seed=seed
    )
    how = {"batch_size": batch_size, "first_step": first_step, "steps": steps}
    return train_loader(clips, **how, rank=rank, ranks=ranks)


def stream(samples, **how):
    return list(loader(samples, **how))


def assert_equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b):
        assert (x.indices, x.problems) == (y.indices, y.problems)
        assert bool((x.video == y.video).all())
        assert bool((x.labels == y.labels).all())
        assert bool((x.weights == y.weights).all())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_stream_bit_for_bit(samples, workers):
    assert_equal(stream(samples), stream(samples, workers=workers))


@pytest.mark.parametrize("first_step", [1, 2, 5, 6])
def test_going_on_at_a_step_gives_the_rest_of_the_stream(samples, first_step):
    assert_equal(stream(samples)[first_step:], stream(samples, first_step=first_step))


def test_every_sample_comes_once_an_epoch_and_epochs_differ(samples):
    batches = stream(samples, batch_size=2, steps=14)  # four epochs of seven
    shown = [i for batch in batches for i in batch.indices]
    orders = [tuple(shown[k : k + 7]) for k in range(0, 28, 7)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len(set(orders)) == 4


def test_another_seed_gives_another_order():
    orders = {tuple(sample_order(20, seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == list(range(20)) for order in orders)


@pytest.mark.parametrize("batch_size", [4, 5, 6, 16])  # whether or not the processes divide it
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_shares_of_all_processes_unite_to_the_single_stream(batch_size, ranks):
    """No video is opened: what matters is which keys (epoch, sample) each process takes in each step."""
    names = [Sample(f"{i}.mp4") for i in range(7)]
    endless = [(epoch, int(i)) for epoch in range(20) for i in sample_order(7, seed=5, epoch=epoch)]
    how = {"batch_size": batch_size, "first_step": 2, "steps": 8}
    shares = [list(loader(names, rank=rank, ranks=ranks, **how).batch_sampler) for rank in range(ranks)]
    for step, parts in enumerate(zip(*shares, strict=True), start=2):
        expected = endless[step * batch_size : (step + 1) * batch_size]
        assert [parts[i % ranks][i // ranks] for i in range(batch_size)] == expected
        assert sum(len(part) for part in parts) == batch_size
    assert step == 7


def test_a_clip_is_the_same_in_whatever_process_it_is_made(samples):
    (whole,) = stream(samples, batch_size=5, steps=1)
    for rank in range(2):
        (share,) = stream(samples, batch_size=5, steps=1, rank=rank, ranks=2)
        for place, i in enumerate(range(rank, 5, 2)):
            assert share.indices[place] == whole.indices[i]
            assert bool((share.video[place] == whole.video[i]).all())


def test_a_share_that_is_smaller_is_padded_with_black_clips_that_weigh_nothing(samples):
    good = [s for s in samples if s is not samples[BROKEN]]
    first, second = (stream(good, batch_size=5, steps=1, rank=rank, ranks=2)[0] for rank in range(2))
    assert first.video.shape == second.video.shape == (3, 4, 3, 16, 16)
    assert first.weights.tolist() == [1, 1, 1]
    assert second.weights.tolist() == [1, 1, 0]
    assert second.indices[2] == -1
    assert second.video[2].count_nonzero() == 0
    assert len(second.labels) == 3


def test_more_processes_than_clips_in_a_batch_is_an_error(samples):
    with pytest.raises(ValueError, match="optim.batch_size 3 is smaller than the 4 processes"):
        stream(samples, batch_size=3, ranks=4)


def test_unreadable_files_are_named_and_black_and_weigh_nothing(samples):
    for batch in stream(samples, batch_size=7, steps=2):
        assert sorted(batch.indices) == list(range(7))
        assert batch.video.shape == (7, 4, 3, 16, 16)
        assert batch.video.dtype == torch.uint8
        assert batch.labels.flatten().tolist() == list(batch.indices)
        assert batch.weights.tolist() == [float(i != BROKEN) for i in batch.indices]
        assert batch.video[batch.indices.index(BROKEN)].count_nonzero() == 0
        assert list(batch.problems) == [BROKEN]
        assert f"{BROKEN}.mp4" in batch.problems[BROKEN]


def test_a_batch_of_unreadable_files_weighs_nothing(samples):
    (batch,) = stream([samples[BROKEN]], batch_size=2, steps=1)
    assert batch.indices == (0, 0)
    assert batch.weights.tolist() == [0, 0]


@pytest.mark.parametrize(("size", "parts"), [(None, [7]), (3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_micro_batches_are_the_batch_in_parts(samples, size, parts):
    (batch,) = stream(samples, batch_size=7, steps=1)
    split = batch.split(size)
    assert [len(video) for video, *_ in split] == parts
    for whole, pieces in zip((batch.video, batch.labels, batch.weights, batch.seeds), zip(*split)):
        assert bool((torch.cat(pieces) == whole).all())


@pytest.mark.parametrize("workers", [0, 2])
def test_test_videos_come_in_the_order_of_the_list(samples, workers):
    labels = torch.zeros(len(samples), 1, dtype=torch.int64)
    videos = EvalVideos(samples, labels, model=MODEL, protocol=EvalConfig(temporal_views=2, spatial_views=3))
    clips = list(eval_loader(videos, workers=workers))
    assert [clip.index for clip in clips] == list(range(7))
    assert [clip.index for clip in clips if clip.video is None] == [BROKEN]
    assert all(clip.video.shape == (7, 4, 3, 16, 16) for clip in clips if clip.video is not None)

"""The stream of batches: the same for any number of workers and from any step on."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from vivit.config import AugmentConfig, DataConfig, EvalConfig, ModelConfig
from vivit.data import loader as loader_module
from vivit.data.dataset import EvalDataset, TrainDataset
from vivit.data.loader import eval_clips, eval_loader, num_workers, open_loader, sample_order, train_loader
from vivit.data.sample import Sample
from vivit.errors import WorkerDied

from ..processes import hang, outlive
from .videos import counter_frames, write_video

MODEL = ModelConfig(num_frames=4, image_size=(16, 16), tubelet_size=(2, 8, 8))
BROKEN = 3
PLAIN = AugmentConfig()


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Seven videos of different sizes, one of them broken."""
    folder = tmp_path_factory.mktemp("loader")
    paths = [write_video(folder / f"{i}.mp4", counter_frames(12 + i, 32 + 2 * i, 48)) for i in range(7)]
    paths[BROKEN].write_bytes(paths[BROKEN].read_bytes()[:100])
    return [Sample(str(path)) for path in paths]


def loader(samples, *, workers=0, first_step=0, steps=6, batch_size=3, seed=5, rank=0, ranks=1, augment=PLAIN):
    labels = torch.arange(len(samples))[:, None]
    clips = TrainDataset(samples, labels, model=MODEL, data=DataConfig(workers=workers), augment=augment, seed=seed)
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
    with pytest.raises(ValueError, match="optim.batch_size 3 is smaller than the 4 clips that 4 processes need"):
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


MIXED = AugmentConfig(mixup=0.3, cutmix=1.0)


@pytest.mark.parametrize("batch_size", [4, 6, 7, 16])
@pytest.mark.parametrize("ranks", [1, 2])
def test_where_clips_are_mixed_neighbours_of_the_single_stream_go_to_one_process(batch_size, ranks):
    names = [Sample(f"{i}.mp4") for i in range(7)]
    how = {"batch_size": batch_size, "first_step": 2, "steps": 6}
    singly = list(loader(names, **how).batch_sampler)
    shares = [list(loader(names, rank=rank, ranks=ranks, augment=MIXED, **how).batch_sampler) for rank in range(ranks)]
    for whole, *parts in zip(singly, *shares, strict=True):
        pairs = [whole[i : i + 2] for i in range(0, batch_size, 2)]
        for rank, part in enumerate(parts):
            assert part == [key for pair in pairs[rank::ranks] for key in pair]


def test_a_process_with_a_pair_less_is_padded(samples):
    good = [s for s in samples if s is not samples[BROKEN]]
    shares = [stream(good, batch_size=6, steps=1, rank=rank, ranks=2, augment=MIXED)[0] for rank in range(2)]
    assert [share.weights.tolist() for share in shares] == [[1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize(("batch_size", "ranks"), [(6, 1), (6, 3), (12, 2)])
@pytest.mark.parametrize("augment", [AugmentConfig(repeats=3), AugmentConfig(repeats=3, mixup=0.3)])
def test_repeats_show_each_sample_so_often_in_a_batch_and_in_an_epoch(batch_size, ranks, augment):
    names = [Sample(f"{i}.mp4") for i in range(7)]
    how = {"batch_size": batch_size, "steps": 42 // batch_size * 3, "ranks": ranks, "augment": augment}
    shares = [list(loader(names, rank=rank, **how).batch_sampler) for rank in range(ranks)]
    group = 2 if augment.mixes else 1
    shown = []
    for parts in zip(*shares, strict=True):
        groups = [[part[i : i + group] for i in range(0, len(part), group)] for part in parts]
        whole = [key for turn in zip(*groups, strict=True) for pair in turn for key in pair]
        assert len(whole) == batch_size
        samples = [(epoch, index) for epoch, index, *_ in whole]
        assert samples == samples[: batch_size // 3] * 3
        assert [repeat for _, _, *repeat in whole] == [
            [repeat] if repeat else [] for repeat in range(3) for _ in range(batch_size // 3)
        ]
        assert all(a != b for a, b in zip(samples, samples[1:]))  # no video stands beside itself
        shown += samples
    for epoch in range(len(shown) // 21):
        assert sorted(index for e, index in shown if e == epoch) == sorted([*range(7)] * 3)


def test_copies_of_a_sample_are_augmented_anew(samples):
    (batch,) = stream(samples[:1], batch_size=4, steps=1, augment=AugmentConfig(repeats=4))
    assert batch.indices == (0, 0, 0, 0)
    assert len({tuple(clip.flatten().tolist()) for clip in batch.video}) == 4
    assert len(set(batch.seeds.tolist())) == 4


@pytest.mark.parametrize("first_step", [1, 3])
def test_going_on_at_a_step_gives_the_rest_of_the_stream_with_everything_on(samples, first_step):
    augment = AugmentConfig(
        repeats=2, mixup=0.3, cutmix=1.0, color_jitter=0.8, rand_augment_layers=2, random_erasing=0.5
    )
    how = {"augment": augment, "batch_size": 6, "steps": 4}
    assert_equal(stream(samples, **how)[first_step:], stream(samples, first_step=first_step, workers=1, **how))


@pytest.mark.parametrize(
    ("augment", "batch_size", "ranks", "message"),
    [
        (AugmentConfig(repeats=2), 5, 1, "batch_size 5 is not a multiple of augment.repeats 2"),
        (AugmentConfig(cutmix=1.0), 6, 4, "batch_size 6 is smaller than the 8 clips that 4 processes need"),
        (AugmentConfig(cutmix=1.0, repeats=2), 2, 1, "batch_size 2 is one video 2 times"),
    ],
)
def test_a_batch_size_that_does_not_fit_is_an_error(samples, augment, batch_size, ranks, message):
    with pytest.raises(ValueError, match=message):
        stream(samples, augment=augment, batch_size=batch_size, ranks=ranks)


@pytest.mark.parametrize("workers", [0, 2])
def test_test_videos_come_in_the_order_of_the_list(samples, workers):
    labels = torch.zeros(len(samples), 1, dtype=torch.int64)
    videos = EvalDataset(samples, labels, model=MODEL, protocol=EvalConfig(temporal_views=2, spatial_views=3))
    clips = list(eval_loader(videos, workers=workers))
    assert [clip.index for clip in clips] == list(range(7))
    assert [clip.index for clip in clips if clip.video is None] == [BROKEN]
    assert all(clip.video.shape == (7, 4, 3, 16, 16) for clip in clips if clip.video is not None)


def act_on(monkeypatch, **acts):
    """Test videos by the number in their path: read those in `acts` by calling what is given for them."""
    original = EvalDataset.__getitem__

    def read(self, index):
        act = acts.get("video" + os.path.basename(self.samples[index].path)[0])
        return act() if act else original(self, index)

    monkeypatch.setattr(EvalDataset, "__getitem__", read)


def eval_videos(samples):
    labels = torch.zeros(len(samples), 1, dtype=torch.int64)
    return EvalDataset(samples, labels, model=MODEL, protocol=EvalConfig(temporal_views=1, spatial_views=1))


def raise_error(error):
    raise error


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("error", [IndexError("tuple index out of range"), RuntimeError("odd"), MemoryError()])
def test_an_error_in_a_worker_ends_all_workers_also_one_that_hangs_and_ignores_sigterm(samples, monkeypatch, error):
    monkeypatch.setattr(loader_module, "GRACE", 0.2)
    act_on(monkeypatch, video0=lambda: raise_error(error), video1=lambda: time.sleep(1000))
    before, started = multiprocessing.active_children(), time.monotonic()
    with pytest.raises(type(error)), open_loader(eval_loader(eval_videos(samples), workers=3)) as clips:  # noqa: PT012
        for _ in clips:
            pass
    assert multiprocessing.active_children() == before
    assert time.monotonic() - started < 300  # not 1000


@pytest.mark.parametrize("where", ["main thread", "another thread"])
def test_an_error_of_the_consumer_ends_the_workers(samples, monkeypatch, where):
    monkeypatch.setattr(loader_module, "GRACE", 0.2)
    act_on(monkeypatch, video1=lambda: time.sleep(1000))

    def consume():
        with pytest.raises(ZeroDivisionError), eval_clips(eval_videos(samples), workers=2) as clips:  # noqa: PT012
            assert next(clips).index == 0
            raise ZeroDivisionError

    if where == "main thread":
        consume()
    else:
        thread = threading.Thread(target=consume)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    assert not multiprocessing.active_children()


# A killed worker leaves unsent data in a socket that is never closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_test_video_that_kills_its_worker_is_missing_and_not_opened_again(samples, monkeypatch, workers):
    act_on(monkeypatch, video2=die, video5=die)
    skipped = {}
    for times in (1, 2):
        with eval_clips(eval_videos(samples), workers=workers, skipped=skipped) as clips:
            found = list(clips)
        assert [clip.index for clip in found] == list(range(7)), times
        assert [clip.index for clip in found if clip.video is None] == [2, BROKEN, 5]
        problems = [found[i].problem for i in (2, 5)]
        assert problems == [f"{samples[i].path}: {skipped[samples[i].path]}" for i in (2, 5)]
        assert all("a worker process died while it read this file (out of memory?)" in problem for problem in problems)
        act_on(monkeypatch, video2=lambda: raise_error(AssertionError), video5=lambda: raise_error(AssertionError))
    assert [*skipped] == [samples[2].path, samples[5].path]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_training_clip_that_kills_its_worker_is_named_and_can_be_skipped(samples, monkeypatch):
    original = TrainDataset.clip
    monkeypatch.setattr(TrainDataset, "clip", lambda self, i, rng: die() if i == 4 else original(self, i, rng))
    with (
        pytest.raises(WorkerDied, match=r"4\.mp4: a worker process died") as error,
        open_loader(  # noqa: PT012
            loader(samples, workers=1)
        ) as batches,
    ):
        for _ in batches:
            pass
    assert [*error.value.problems] == [samples[4].path]
    clips = loader(samples).dataset.clips
    with open_loader(train_loader(clips, batch_size=3, first_step=0, steps=6, skipped=error.value.problems)) as batches:
        problems = {index: problem for batch in batches for index, problem in batch.problems.items()}
    assert set(problems) == {BROKEN, 4}
    assert problems[4].startswith(f"{samples[4].path}: a worker process died")


def test_a_death_is_not_raised_in_the_middle_of_what_the_main_process_does(samples, monkeypatch):
    act_on(monkeypatch, video1=lambda: (time.sleep(0.3), die()))
    with eval_clips(eval_videos(samples), workers=1) as clips:
        next(clips)
        (worker,) = multiprocessing.active_children()
        worker.join(10)  # where PyTorch's handler of SIGCHLD would raise
        assert worker.exitcode


class Hanging(EvalDataset):
    """Two videos that never end. The path of a sample is the folder where `hang` writes."""

    def views(self, index):
        hang(Path(self.samples[index].path))


def read_for_ever(folder):
    videos = Hanging([Sample(str(folder))] * 2, torch.zeros(2, 1), model=MODEL, protocol=EvalConfig())
    with eval_clips(videos, workers=2) as clips:
        list(clips)


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_workers_that_read_end_when_their_parent_is_killed(tmp_path, start_method):
    assert outlive(read_for_ever, start_method, tmp_path, children=2) == []


def test_workers_are_as_many_as_cores_unless_asked_for(monkeypatch):
    for cores, processes, expected in ((2, 1, 2), (1, 1, 1), (64, 1, 12), (16, 8, 2), (4, 8, 1)):
        monkeypatch.setattr(loader_module, "cores", lambda cores=cores: cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert num_workers(None) == expected
        assert (num_workers(0), num_workers(99)) == (0, 99)

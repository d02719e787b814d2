"""A batch that cannot fit is refused before the first step; free memory is what the kernel and its groups leave."""

import pytest
import torch

from vivit.config import replace
from vivit.engine import memory as memory_module
from vivit.engine.device import available_memory, format_size
from vivit.engine.distributed import World
from vivit.engine.memory import check_memory, rough_bytes, state_bytes, training_cost
from vivit.engine.train import train

from .tiny import ALONE, tiny_config, with_data


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MEMINFO = "MemTotal: 4000 kB\nMemFree: 100 kB\nMemAvailable: 3000 kB\n"


def test_free_memory_is_what_the_machine_has_where_no_group_limits_it(tmp_path):
    assert available_memory(tmp_path) is None  # not Linux
    write(tmp_path, proc__meminfo=MEMINFO)
    assert available_memory(tmp_path) == 3000 * 1024
    write(tmp_path, proc__self__cgroup="0::/job\n", sys__fs__cgroup__job__memory_DOT_max="max\n")
    assert available_memory(tmp_path) == 3000 * 1024


@pytest.mark.parametrize("group", ["/", "/job/step", "/not/in/this/container"])
def test_a_control_group_limits_it_and_its_file_cache_counts_as_free(tmp_path, group):
    write(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup=f"0::{group}\n")
    folder = "sys__fs__cgroup__" + ("job__" if group == "/job/step" else "")
    names = {
        "memory_DOT_max": "1000000",
        "memory_DOT_current": "900000",
        "memory_DOT_stat": "anon 1\ninactive_file 500\n",
    }
    write(tmp_path, **{folder + name: text for name, text in names.items()})
    assert available_memory(tmp_path) == 100_500


def test_the_first_version_of_control_groups_is_read_too(tmp_path):
    write(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="5:cpu:/a\n9:memory,hugetlb:/a\n")
    names = {"limit_in_bytes": "1000000", "usage_in_bytes": "900000", "stat": "total_inactive_file 7\n"}
    write(tmp_path, **{f"sys__fs__cgroup__memory__a__memory_DOT_{name}": text for name, text in names.items()})
    assert available_memory(tmp_path) == 100_007


def test_sizes_are_in_the_largest_unit_that_is_below_them():
    sizes = {0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 5 * 2**19: "2.5 MiB", 3 * 2**29: "1.50 GiB"}
    assert {size: format_size(size) for size in sizes} == sizes


@pytest.mark.parametrize("micro", [None, 6])
def test_a_batch_that_cannot_fit_is_refused_with_the_micro_batch_that_does(data_root, tmp_path, monkeypatch, micro):
    config = tiny_config(data_root, tmp_path / "run")
    config = replace(config, parallel=replace(config.parallel, micro_batch=micro))
    needs = training_cost(replace(config, precision="float32"))
    fixed = needs.fixed_bytes + sum(state_bytes(config, needs, gpus=1, accumulating=True).values())
    batches = 2 * 8 * 4 * 3 * 16 * 16
    monkeypatch.setattr(memory_module, "available_memory", lambda: int(batches + fixed + 4.5 * needs.bytes_per_clip))
    with pytest.raises(ValueError, match=f"{micro or 8} clips in one forward pass need about .* are free") as error:
        train(config)
    fits = int(str(error.value).split("--parallel.micro-batch ")[1].split()[0])
    assert 1 <= fits <= 4
    check_memory(replace(config, parallel=replace(config.parallel, micro_batch=fits)), ALONE)


def test_where_not_even_one_clip_fits_other_advice_is_given(data_root, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_module, "available_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"0 bytes are free for them on cpu; take a smaller --optim.batch-size"):
        check_memory(tiny_config(data_root, tmp_path / "run"), ALONE)


def test_processes_on_one_machine_share_its_memory(monkeypatch, tmp_path):
    class Four(World):
        def gather(self, value):
            return [value] * 4

    config = with_data(tiny_config("", tmp_path), workers=0)
    needs = training_cost(replace(config, precision="float32"))
    both = (
        sum(state_bytes(config, needs, gpus=4, accumulating=False).values())
        + needs.fixed_bytes
        + 2 * needs.bytes_per_clip
    )
    enough = 4 * (both + 2 * 2 * 4 * 3 * 16 * 16)
    monkeypatch.setattr(memory_module, "available_memory", lambda: enough)
    check_memory(config, Four(0, 4, torch.device("cpu")))
    monkeypatch.setattr(memory_module, "available_memory", lambda: enough - 8)
    with pytest.raises(ValueError, match="2 clips in one forward pass need about"):
        check_memory(config, Four(0, 4, torch.device("cpu")))


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"pool": "mean", "pool_space": False, "joint_depth": 5, "attention_pool": True}, 6),
        ({"pool": "attentive", "pool_depth": 5}, 6),
    ],
)
def test_the_rough_bound_counts_a_layer_after_the_encoder_like_one_inside(changes, more, tmp_path):
    config = tiny_config("", tmp_path)
    after = replace(config, model=replace(config.model, **changes))
    inside = replace(config, model=replace(config.model, depth=config.model.depth + more))
    assert rough_bytes(after, 16) == rough_bytes(inside, 16)


def test_what_is_far_from_the_limit_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_module, "available_memory", lambda: 2**40)
    monkeypatch.setattr(memory_module, "training_cost", pytest.fail)
    check_memory(tiny_config("", tmp_path), ALONE)

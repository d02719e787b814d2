import shutil

import pytest

from vivit.engine.train import train

from .tiny import mixed_config, tiny_config, train_and_stop, write_table


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """27 training videos and 7 to validate on, neither a multiple of the batch; one of each is broken. Read-only."""
    return write_table(tmp_path_factory.mktemp("data") / "data", train=26, val=6, broken=1)


@pytest.fixture
def config(data_root, tmp_path):
    """Ten steps, validated after 3, 6, 9 and 10, saved after every second."""
    return tiny_config(data_root, tmp_path / "run")


@pytest.fixture(scope="session")
def straight(data_root, tmp_path_factory):
    """The folder of that run, uninterrupted. Read-only."""
    return train(tiny_config(data_root, tmp_path_factory.mktemp("straight") / "run"))


@pytest.fixture(scope="session")
def mixed_run(data_root, tmp_path_factory):
    """The folder of a run of eight steps with every augmentation on. Read-only."""
    return train(mixed_config(tiny_config(data_root, tmp_path_factory.mktemp("mixed") / "run")))


@pytest.fixture(scope="session")
def stopped(data_root, tmp_path_factory):
    """The folder of that run, stopped and saved after 6 steps, with the checkpoint of step 4 before. Read-only."""
    config = tiny_config(data_root, tmp_path_factory.mktemp("stopped") / "run")
    train_and_stop(config, 6)
    return config.run


@pytest.fixture
def own_data(tmp_path):
    """A dataset that a test may damage."""
    return write_table(tmp_path / "data", train=8, val=2)


@pytest.fixture
def continued(stopped, config):
    """The run that was stopped after 6 steps, in a folder of its own; the config to continue it."""
    shutil.copytree(stopped, config.run)
    return config

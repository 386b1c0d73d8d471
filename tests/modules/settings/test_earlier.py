"""Settings of earlier versions: converted in the configuration of a checkpoint, refused elsewhere."""

from pathlib import Path

import pytest

from data.errors import UserError
from modules.config import Precision, Schedule, config_to_yaml, load_config

EARLIER = Path(__file__).resolve().parents[2] / "support" / "earlier_run" / "config.yaml"


def test_the_configuration_of_an_earlier_checkpoint_is_converted(tmp_path):
    """Two micro-batches of two studies each."""
    config = load_config(EARLIER, ["data.root=elsewhere"])
    assert (config.optim.batch_size, config.data.micro_batch_size) == (4, 2)
    assert (config.train.precision, config.optim.schedule) == (Precision.FP32, Schedule.STEP)
    assert config.data.root == "elsewhere" and config.model.width == 32
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batch_size=8", "The argument data.batch_size=8: data.batch_size is a setting of an earlier version: use "
                              "optim.batch_size"),
        ("optim.accumulate=2", "use data.micro_batch_size"),
        ("optim.warmup_epochs=1", "use optim.warmup_steps"),
        ("optim.decay_every=1", "use optim.decay_steps"),
    ],
)
def test_a_user_learns_the_new_name(override, message, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for path in (None, EARLIER):
        with pytest.raises(UserError) as caught:
            load_config(path, [override])
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_batch_of_a_single_process_is_taken_as_it_was(capsys):
    for path in (None, EARLIER):
        assert load_config(path, ["data.batch_size=8"]).optim.batch_size == 8
        assert capsys.readouterr().err == "The argument data.batch_size=8: the setting is now called optim.batch_size\n"
    with pytest.raises(UserError, match="data.batch_size is a setting of an earlier version: use optim.batch_size"):
        load_config(None, ["data={batch_size: 8, workers: 0}"])


def test_a_file_of_the_user_is_not_guessed_at(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data: {batch_size: 4}\noptim: {accumulate: 2}\n")
    with pytest.raises(UserError, match="mine.yaml: data.batch_size is a setting of an earlier version"):
        load_config(path)

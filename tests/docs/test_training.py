"""The settings of docs/training.md are those of the program."""

import re
from pathlib import Path

from omegaconf import OmegaConf

from modules.config import load_config
from modules.evaluation.rewards.report_rewards import REWARD_NAMES
from modules.evaluation.scoring import SCORE_NAMES
from modules.settings.weighted_sum import parse_sum

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/training.md").read_text(encoding="utf-8")


def test_the_example_of_reward_training_is_a_configuration(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    settings = OmegaConf.merge(OmegaConf.load(ROOT / "configs/mimic_cxr.yaml"), OmegaConf.create(block))
    OmegaConf.save(settings, tmp_path / "mimic_reward.yaml")
    config = load_config(tmp_path / "mimic_reward.yaml")
    assert config.train.stage == "reward" and config.reward.samples == 5
    assert set(parse_sum(config.reward.rewards, "reward.rewards")) <= set(REWARD_NAMES)
    assert {*parse_sum(config.train.monitor, "train.monitor"), *config.reward.watch} <= set(SCORE_NAMES)


def test_every_reward_and_setting_of_rewards_is_described():
    section = TEXT.partition("## Training on rewards")[2].partition("\n## ")[0]
    assert [name for name in REWARD_NAMES if f"`{name}`" not in section] == []
    settings = vars(load_config(None).reward)
    assert [name for name in settings if name != "metrics_python" and f"reward.{name}" not in section] == []

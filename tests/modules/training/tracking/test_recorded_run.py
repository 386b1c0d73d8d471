"""A run of the trainer and its test, recorded by MLflow."""

import pytest

import main_test
from modules.training.tracking.tracker import read_ids
from modules.training.tracking.trackers import open_trackers
from tests.support.tiny_run import write_tiny_run
from tests.support.tiny_training import tiny_trainer

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install -r requirements-tracking.txt")
pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed: pip install -r requirements-tracking.txt")


def recorded(run_dir):
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run_dir.parent / 'mlflow' / 'mlflow.db'}")
    return client, client.get_run(read_ids(run_dir)["mlflow"])


def test_losses_scores_and_configuration_of_a_run_are_recorded(tmp_path):
    trainer = tiny_trainer(tmp_path, "train.epochs=1", "train.track=[mlflow]")
    assert trainer.fit() == 0
    run_dir = tmp_path / "results" / "run"
    client, run = recorded(run_dir)
    assert run.data.params["train.track"] == "['mlflow']" and run.data.params["optim.optimizer"] == "ADAMW"
    assert {"loss/total", "loss/report", "lr/rest", "validation/bleu_4", "gradient_norm"} <= set(run.data.metrics)
    points = client.get_metric_history(run.info.run_id, "loss/total")
    assert [point.step for point in points] == list(range(1, trainer.total_steps + 1))
    assert run.info.status == "FINISHED" and not (run_dir / "tensorboard").exists()


def test_a_test_adds_its_scores_and_its_page(tmp_path, without_java, capsys):
    run_dir, _ = write_tiny_run(tmp_path)
    for tracker in open_trackers(["mlflow"], run_dir, {"seed": 5}, 0).values():
        tracker.close()
    arguments = ["--checkpoint", str(run_dir), "--baselines", "none", "--workers", "1", "--split", "val"]
    assert main_test.main(arguments) == 0
    client, run = recorded(run_dir)
    assert 0 <= run.data.metrics["val/bleu_4"] <= 1 and run.data.params == {"seed": "5"}
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["report_val.html"]
    assert "recorded by mlflow: " in capsys.readouterr().out

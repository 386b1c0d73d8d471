"""MLflow in a folder: what it wrote is read back."""

import shutil

import pytest

from modules.training.tracking.mlflow_tracker import MLflowTracker
from modules.training.tracking.tracker import TrackingError, read_ids

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install -r requirements-tracking.txt")
pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed: pip install -r requirements-tracking.txt")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of runs with MLflow's tables, which take a second to create."""
    return tmp_path_factory.mktemp("results")


def open_tracker(results, name, configuration=None, resumed=False):
    run_dir = results / name
    run_dir.mkdir(exist_ok=True)
    return MLflowTracker(run_dir, configuration, resumed)


def read(results, name):
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{results / 'mlflow' / 'mlflow.db'}")
    return client, client.get_run(read_ids(results / name)["mlflow"])


def test_a_run_is_recorded_resumed_and_gets_its_results(results, tmp_path):
    many = {f"setting{number}": number for number in range(150)}  # more than MLflow takes in one call
    tracker = open_tracker(results, "mine", {"optim": {"lr": 0.5}, "long": "x" * 7000, "group": many})
    tracker.log_scalars({"loss/total": 2.5, "loss/report": float("inf")}, 10)
    tracker.close()
    client, run = read(results, "mine")
    assert run.info.run_name == "mine" and run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "sgrrg"
    assert run.data.params["optim.lr"] == "0.5" and len(run.data.params) == 152
    assert run.data.params["long"] == "x" * 6000

    tracker = open_tracker(results, "mine", {"optim": {"lr": 0.25}}, resumed=True)
    tracker.log_scalars({"loss/total": 1.5}, 11)
    (tmp_path / "report.html").write_text("a page")
    tracker.log_results({"test/bleu_4": 0.25}, tmp_path / "report.html")
    tracker.close()
    client, resumed = read(results, "mine")
    assert resumed.info.run_id == run.info.run_id and resumed.data.params["optim.lr"] == "0.5"
    points = client.get_metric_history(run.info.run_id, "loss/total")
    assert [(point.step, point.value) for point in points] == [(10, 2.5), (11, 1.5)]
    assert resumed.data.metrics["test/bleu_4"] == 0.25
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["report.html"]
    (page,) = (results / "mlflow").rglob("report.html")
    assert page.read_text() == "a page"


def test_a_run_that_is_gone_is_recorded_as_a_new_one(results):
    open_tracker(results, "gone").close()
    ids = results / "gone" / "tracking.json"
    ids.write_text('{"mlflow": "0123456789abcdef0123456789abcdef", "wandb": "w"}')
    open_tracker(results, "gone", {"seed": 1}, resumed=True).close()
    _, run = read(results, "gone")
    assert run.data.params == {"seed": "1"} and read_ids(results / "gone")["wandb"] == "w"


def test_a_failure_is_one_line(results, tmp_path):
    tracker = open_tracker(results, "broken")
    with pytest.raises(TrackingError, match="^mlflow: .+") as raised:
        tracker.log_scalars({"a\nb": 1.0}, 1)
    assert "\n" not in str(raised.value)
    shutil.rmtree(results / "broken")

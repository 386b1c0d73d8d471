"""The files of an export that depend on the run."""

import shutil

from modules.inference import export_folder
from tests.support.tested_run import write_tested_run


def test_scores_of_another_checkpoint_are_not_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(export_folder, "export_programs", lambda folder, checkpoint: {})
    run_folder, _ = write_tested_run(tmp_path)
    shutil.move(run_folder / "best", run_folder / "last")
    export_folder.export_checkpoint(run_folder / "last", tmp_path / "out")
    assert "was not tested" in (tmp_path / "out/README.md").read_text()
    assert not (tmp_path / "out/metrics.json").exists()

"""Exported programs of models with a technique of the R2Gen family."""

import pytest

from modules.checkpoint import load_checkpoint
from modules.inference.exported_programs import TOLERANCE, export_programs
from tests.support.family.techniques import COMBINED
from tests.support.tiny_run import write_tiny_run


@pytest.mark.parametrize("settings", COMBINED.values(), ids=COMBINED)
def test_programs_compute_as_the_model_does(settings, tmp_path):
    run, _ = write_tiny_run(tmp_path, *settings, lively=True)
    differences = export_programs(tmp_path, load_checkpoint(run / "best"))
    assert max(differences.values()) <= TOLERANCE

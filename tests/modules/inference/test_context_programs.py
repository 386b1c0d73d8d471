"""An exported model that reads the context: its programs compute what the model does without any."""

import pytest
import torch

from models.outputs import GraphSource, ModelInputs
from modules.builders import box_source_of_new_images, load_model
from modules.checkpoint import load_checkpoint
from modules.inference.exported_programs import ENCODER, TOLERANCE, export_programs, random_inputs
from tests.support.context.tiny_context import add_context
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_run import save_tiny_run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    root = add_context(write_tiny_dataset(folder / "tiny", image_size=32))
    settings = "model.context=[indication,prior]", "model.prior_report=true", "model.indication_evidence=true"
    save_tiny_run(folder / "run", root, *settings, lively=True)
    return load_checkpoint(folder / "run/best")


def test_programs_read_the_images_alone(checkpoint, tmp_path):
    differences = export_programs(tmp_path, checkpoint)
    assert max(differences.values()) <= TOLERANCE
    model, inputs = load_model(checkpoint, checkpoint.config).eval(), random_inputs(checkpoint.config, 3)
    with torch.no_grad():
        withheld = model.encode(
            ModelInputs(*inputs), GraphSource.PREDICTED, box_source_of_new_images(model, checkpoint.config)
        )
        exported = torch.export.load(tmp_path / ENCODER).module()(*inputs)
    torch.testing.assert_close(exported["region_logits"], withheld.region_logits, atol=1e-4, rtol=1e-4)
    assert "change_logits" not in exported

"""The model as an object of the Hugging Face hub: `from modules.hub import SGRRG`.

    model = SGRRG.from_pretrained("exported/demo")       # a folder of modules.export, a run folder, or a repository
    model.push_to_hub("NAME/sgrrg-demo", private=True)   # uploads what modules.export writes, without programs

The class is in `modules/`, because a checkpoint has a configuration and vocabularies, of which `models/` knows nothing.
"""

import os
from dataclasses import replace
from pathlib import Path

import torch

from models import sgrrg
from modules.builders import load_model
from modules.checkpoint import CONFIG, EXPORTED_WEIGHTS, THRESHOLDS, VOCABULARIES, Checkpoint, load_checkpoint
from modules.inference.export_folder import write_weights
from modules.saving.manifest import MANIFEST

try:
    from huggingface_hub import PyTorchModelHubMixin, snapshot_download
except ImportError as error:
    raise ImportError("modules.hub needs huggingface_hub: pip install -r requirements-tracking.txt") from error

_FILES = ["README.md", "config.json", CONFIG, VOCABULARIES, EXPORTED_WEIGHTS, THRESHOLDS, MANIFEST, "metrics.json"]


class SGRRG(sgrrg.SGRRG, PyTorchModelHubMixin):
    """`models.sgrrg.SGRRG` with `from_pretrained`, `save_pretrained` and `push_to_hub`.

    checkpoint   what it was loaded from, without weights: configuration, vocabularies and folder; None for a model that
                 was built from its parts. `modules.predictor.Predictor(model.checkpoint.directory)` writes reports
    """

    checkpoint: Checkpoint | None = None

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, cache_dir: str | Path | None, force_download: bool,
        local_files_only: bool, token: str | bool | None, map_location: str | torch.device = "cpu",
    ) -> "SGRRG":
        """Load a folder, or a repository of the hub after downloading it; the model is in inference mode.

        map_location: the device. Raises UserError if the files are not a checkpoint.
        """
        folder = model_id if os.path.isdir(model_id) else snapshot_download(
            model_id, revision=revision, cache_dir=cache_dir, force_download=force_download,
            local_files_only=local_files_only, token=token, allow_patterns=_FILES,
        )
        checkpoint = load_checkpoint(folder)
        parts = load_model(checkpoint, checkpoint.config)
        model = cls(
            parts.patch_encoder, parts.image_encoder, parts.decoder, parts.graph, parts.observation_head,
            bos_id=parts.bos_id, eos_id=parts.eos_id, pad_id=parts.pad_id,
        )
        model.checkpoint = replace(checkpoint, weights={})
        return model.to(map_location).eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files of `modules.export` without programs, with the current weights.

        Raises ValueError for a model without a checkpoint.
        """
        if self.checkpoint is None:
            raise ValueError("only a model that was loaded by from_pretrained can be saved: it has the vocabularies")
        weights = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        write_weights(save_directory, replace(self.checkpoint, weights=weights))

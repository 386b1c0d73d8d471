"""The model card of an exported model: README.md with front matter for the Hugging Face hub."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from data.context.settings import INDICATION, PRIOR
from data.errors import readable
from data.vocabulary import Vocabularies
from modules.checkpoint import Thresholds
from modules.config import Config
from modules.evaluation.score_tables import format_heading, format_score_table

# Score -> metric name on the hub.
_HUB_METRICS = {
    "bleu_1": "bleu", "bleu_2": "bleu", "bleu_3": "bleu", "bleu_4": "bleu", "meteor": "meteor", "rouge_l": "rouge",
}

_NO_CONTEXT = "These programs read the images alone, as the model does if nothing else is given.\n"


def model_card(
    config: Config, vocabularies: Vocabularies, metrics: Mapping[str, Any] | None, thresholds: Thresholds | None = None
) -> str:
    """The text of README.md. metrics: the content of metrics.json, None if the model was not tested."""
    front = {
        "language": "en",
        "library_name": "sgrrg",
        "pipeline_tag": "image-to-text",
        "tags": ["chest-x-ray", "radiology", "radiology-report-generation", "scene-graph", "pytorch"],
    }
    if metrics is not None:
        front["metrics"] = sorted({_HUB_METRICS[name] for name in metrics["scores"] if name in _HUB_METRICS})
        front["model-index"] = [{"name": config.name, "results": [_result(metrics)]}]
    data_sets = ", ".join(_code(root.name) for root in config.data.roots)
    scores = "This checkpoint was not tested." if metrics is None else (
        f"{_escape(format_heading(metrics))}\n\n```\n{_table(metrics)}\n```\n\n"
        "Baselines: the best answer that ignores the image, and the report of the nearest training image."
    )
    return f"""---
# Add `license:` before publishing. Weights trained on credentialed data may be shared only if its licence allows it.
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {_escape(config.name)}

Generates the report of a chest X-ray from a predicted scene graph: SGRRG (Wang, Zhu, Bhalerao, He; Computerized
Medical Imaging and Graphics, 2025, article 102644).

**For research only. Not a medical device, not for clinical use: a report may be wrong in any sentence.**

Trained on {data_sets} (seed {config.seed}): {len(vocabularies.tokenizer.words)} words,
{len(vocabularies.anatomy.names)} regions with {sum(vocabularies.attributes.sizes)} attributes,
{len(vocabularies.observations)} observations. Trunk {_code(config.model.patch_encoder.backbone)}, width
{config.model.width}, images of {config.data.image_size} x {config.data.image_size} pixels, {config.data.views} per
study.{_describe_thresholds(config, thresholds)}{_describe_context(config)}

## Scores

{scores}

## Use

In a checkout of the SGRRG repository:

```bash
python main_predict.py --checkpoint THIS_FOLDER chest.png{_context_arguments(config)}
```

```python
from modules.predictor import Predictor

prediction, = Predictor("THIS_FOLDER").predict(["chest.png"])
print(prediction.report)
```

Without the repository, load `encoder.pt2` and `decoder_step.pt2` with `torch.export.load` (import torchvision first).
{_NO_CONTEXT if config.model.context else ""}"""


def _describe_context(config: Config) -> str:
    """The sentence on what the model reads beside the images; nothing if that is nothing."""
    names = {INDICATION: "the indication", PRIOR: "the previous image"}
    parts = [name for part, name in names.items() if part in config.model.context]
    parts += ["the previous report"] if config.model.prior_report else []
    return f"\n\nIt also reads {' and '.join(parts)} of a study, as far as they are given." if parts else ""


def _context_arguments(config: Config) -> str:
    """The options of main_predict.py for what the model reads beside the images."""
    options = {INDICATION: ' --indication "Fever."', PRIOR: " --prior earlier.png"}
    given = "".join(option for part, option in options.items() if part in config.model.context)
    return given + (" --prior-report earlier.txt" if config.model.prior_report else "")


def _describe_thresholds(config: Config, thresholds: Thresholds | None) -> str:
    """The sentence on the thresholds of regions and attributes; nothing for a model without a scene graph."""
    if config.model.graph_in == "none":
        return ""
    default = f"{config.model.region_threshold:g} for regions and {config.model.attribute_threshold:g} for attributes"
    if thresholds is None or config.eval.thresholds == "default":
        return f" Probability thresholds: {default}."
    regions, attributes = len(thresholds.regions), sum(map(len, thresholds.attributes.values()))
    split, data_set = _code(thresholds.origin["split"]), _code(thresholds.origin["dataset"])
    return (
        f"\n\nProbability thresholds: {default}; {regions} regions and {attributes} attributes have thresholds tuned "
        f"on the split {split} of {data_set} (`thresholds.json`)."
    )


def _result(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the front matter's model-index."""
    return {
        "task": {"type": "image-to-text", "name": "radiology report generation"},
        "dataset": {"type": metrics["dataset"], "name": metrics["dataset"], "split": metrics["split"]},
        "metrics": [
            {"type": _HUB_METRICS.get(name, name), "name": name, "value": round(value, 4)}
            for name, value in metrics["scores"].items() if value is not None
        ],
    }


def _table(metrics: Mapping[str, Any]) -> str:
    """The scores of the model and the baselines, without the heading."""
    return format_score_table(metrics).split("\n\n", 1)[1].replace("```", "'''")


def _escape(text: object) -> str:
    """`text` as one line of Markdown that shows it as it is: names come from the data sets of others."""
    line = readable(" ".join(str(text).split()))
    # An underscore within a word has no meaning.
    return re.sub(r"([\\`*\[\]<>&#|!~]|(?<!\w)_|_(?!\w))", r"\\\1", line)


def _code(text: object) -> str:
    """`text` as a code span of Markdown, which cannot contain backticks."""
    return "`" + readable(" ".join(str(text).split())).replace("`", "'") + "`"

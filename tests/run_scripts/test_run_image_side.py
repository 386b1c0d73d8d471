"""From a data set to a trained image side, its scores, and a report run that starts from it: the real commands."""

import json

import main_predict
import main_test
import main_train
from modules.evaluation.metrics.text_scores import TEXT_NAMES
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_training import SMALLEST_SGRRG


def test_image_side_is_trained_tested_and_continued_with_reports(tmp_path, capsys):
    root = write_tiny_dataset(tmp_path / "tiny", train=8, val=24, test=3, image_size=32)
    settings = [
        f"data.root={root}", f"results={tmp_path / 'results'}", "data.image_size=32", "data.workers=0",
        "data.min_word_count=1", "data.min_attribute_count=1", "data.max_tokens=12", *SMALLEST_SGRRG,
        "optim.batch_size=8", "optim.warmup_steps=1", "train.epochs=1", "train.device=cpu",
    ]
    assert main_train.main(["--config", "configs/nih_cxr14.yaml", *settings]) == 0, capsys.readouterr().err
    run = tmp_path / "results" / "nih_cxr14"
    validations = [line for line in map(json.loads, (run / "log.jsonl").read_text().splitlines())
                   if "observation_auroc_frequent" in json.dumps(line)]
    assert validations and (run / "best" / "weights.pt").is_file()

    assert main_test.main(["--checkpoint", str(run), "--graph", "predicted", "train.device=cpu"]) == 0
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["scores"]["observation_micro_f1"] is not None and metrics["scores"]["box_iou"] is not None
    assert all(metrics["scores"][name] is None for name in TEXT_NAMES)
    assert main_predict.main(["--checkpoint", str(run), "--out", str(tmp_path / "out"), str(root / "images")]) == 1
    message = capsys.readouterr().err
    assert "is a model without report decoder (model.report=false): start a run that trains one" in message

    assert main_train.main([
        "name=reports", *settings, f"train.init_from={run}", "train.max_steps=1", "train.monitor=bleu_4",
        "eval.meteor_in_validation=false",
    ]) == 0
    log = (tmp_path / "results" / "reports" / "log.jsonl").read_text(encoding="utf-8") + capsys.readouterr().out
    assert "weights did not fit" in log

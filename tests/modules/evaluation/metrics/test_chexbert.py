"""The CheXbert labeler, with the random weights of a tiny BERT."""

from importlib import util

import pytest
import torch

from data.errors import UserError
from data.ontology import observation_names
from modules.evaluation.metrics import chexbert
from modules.evaluation.metrics.chexbert import load_chexbert
from tests.support.evaluation.tiny_chexbert import WORDS, published_weights, write_folder

if util.find_spec("transformers") is None:
    pytest.skip("CheXbert needs transformers (requirements-metrics.txt)", allow_module_level=True)

REPORTS = ["No pneumothorax.", "left\neffusion .", "", "edema " * 100]


def test_values_of_the_heads_become_labels(tmp_path):
    labeler = load_chexbert(write_folder(tmp_path, published_weights([0, 1, 2, 3] * 3 + [1, 1])))
    labels = labeler.label(["edema", "no effusion"])
    assert labeler.name == "chexbert"
    assert labels[0] == labels[1] == {
        "Cardiomegaly": 1, "Lung Opacity": 0, "Lung Lesion": -1, "Consolidation": 1, "Pneumonia": 0, "Atelectasis": -1,
        "Pleural Effusion": 1, "Pleural Other": 0, "Fracture": -1, "Support Devices": 1, "No Finding": 1,
    }
    assert set(labels[0]) <= set(observation_names())


def test_labels_do_not_depend_on_batches_order_or_padding(tmp_path, monkeypatch):
    labeler = load_chexbert(write_folder(tmp_path, published_weights()))
    labels = labeler.label(REPORTS)
    assert len({str(each) for each in labels}) > 1
    assert labels == [labeler.label([report])[0] for report in REPORTS]
    monkeypatch.setattr(chexbert, "_BATCH", 2)
    assert labeler.label(REPORTS[::-1])[::-1] == labels == labeler.label(REPORTS)
    assert labeler.label([]) == []


def test_the_representation_is_that_of_the_first_token(tmp_path):
    """Compared with a BertModel of transformers that loads the same weights."""
    from transformers import BertConfig, BertModel

    state = published_weights()
    labeler = load_chexbert(write_folder(tmp_path, state))
    bert = BertModel(BertConfig(
        vocab_size=len(WORDS), hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=16,
        max_position_embeddings=32,
    )).eval()
    bert.load_state_dict({
        name.removeprefix("module.bert."): tensor for name, tensor in state.items()
        if name.startswith("module.bert.") and "position_ids" not in name
    })
    ids = torch.tensor([[WORDS.index(word) for word in ("[CLS]", "no", "pneumo", "##thorax", ".", "[SEP]")]])
    with torch.no_grad():
        first = bert(ids).last_hidden_state[0, 0]
    values = [
        int((state[f"module.linear_heads.{head}.weight"] @ first + state[f"module.linear_heads.{head}.bias"]).argmax())
        for head in range(14)
    ]
    expected = {
        name: (None, 1, 0, -1)[value] for name, value in zip(chexbert._HEADS, values, strict=True) if value
    }
    assert labeler.label(["No pneumothorax."]) == [expected]


def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"No file that CheXbert needs at .*chexbert\.pth: download"):
        load_chexbert(tmp_path)
    write_folder(tmp_path, published_weights())
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"No file that CheXbert needs at .*vocab\.txt: download"):
        load_chexbert(tmp_path)
    monkeypatch.setattr(chexbert, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-metrics\.txt"):
        load_chexbert(tmp_path)


@pytest.mark.parametrize("content", [{}, {"model_state_dict": {"module.x": torch.ones(1)}}, "a text"])
def test_other_weights_are_refused_in_one_line(tmp_path, content):
    write_folder(tmp_path, {})
    torch.save(content, tmp_path / "chexbert.pth")
    with pytest.raises(UserError, match=r"is not a checkpoint of CheXbert \(.+\): download it again") as raised:
        load_chexbert(tmp_path)
    assert "\n" not in str(raised.value)

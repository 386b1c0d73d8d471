"""Random weights of a tiny BERT, named like CheXbert's published weights."""

import torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "left", "effusion", "edema", "pneumo", "##thorax", "."]


def published_weights(biases=None):
    """Return random weights. `biases` [14]: the value (0 to 3) that each head then always predicts."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    bert = BertModel(BertConfig(
        vocab_size=len(WORDS), hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=16,
        max_position_embeddings=32, initializer_range=1.0,
    ))
    state = {f"module.bert.{name}": tensor for name, tensor in bert.state_dict().items()}
    state["module.bert.embeddings.position_ids"] = torch.arange(32)[None]
    for number in range(14):
        head = torch.nn.Linear(64, 4 if number < 13 else 2)
        if biases is not None:
            head.bias.data[biases[number]] = 1000.0
        state |= {f"module.linear_heads.{number}.{name}": tensor for name, tensor in head.state_dict().items()}
    return state


def write_folder(folder, state):
    """Write the weights `state` and a vocabulary to `folder`, as `load_chexbert` expects them; return `folder`."""
    torch.save({"epoch": 5, "model_state_dict": state, "optimizer_state_dict": {}}, folder / "chexbert.pth")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return folder

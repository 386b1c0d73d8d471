"""Tiny models in the files that the package RadEval loads, and the numbers that the package prints with them.

Run by the Python that has the package, which need not be the one of the tests:

    python tiny_radeval.py WEIGHTS REPORTS.json

writes the files of all metrics into the folder WEIGHTS, calls the package for {references, generated, metrics}, and
prints a JSON object on the last line.

The weights of the encoders are random. The two language models, which write a judgement, always write the same one.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from unittest import mock

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] no the is are left right small large heart lungs clear effusion edema pleural "
    "pneumonia pneumothorax normal size there of and a mild in lung . , None"
).split()
GREEN_ANSWER = "[Clinically Significant Errors]:\n(a) False: 1. edema\n\n[Matched Findings]:\n3. a; b; c\n"
CRIMSON_ANSWER = json.dumps({
    "reference_findings": [{"id": "R1", "clinical_significance": "urgent"}],
    "predicted_findings": [{"id": "P1", "clinical_significance": "urgent"}],
    "matched_findings": [{"ref_id": "R1", "pred_id": "P1"}],
    "errors": {"false_findings": [], "missing_findings": [], "attribute_errors": [
        {"ref_id": "R1", "error_types": ["severity"], "severity": "significant"},
    ]},
})
RADGRAPH_ENCODER = "tiny/radgraph-encoder"


def environment(weights: Path) -> dict[str, str]:
    """Return the variables that make the package look for its files in `weights`, and nowhere else."""
    return {
        "HF_HOME": str(weights / "huggingface"), "XDG_CACHE_HOME": str(weights / "cache"),
        "NLTK_DATA": str(weights / "nltk_data"), "TRANSFORMERS_VERBOSITY": "error",
    }


def hub_folder(weights: Path, repository: str, cache: str = "huggingface/hub") -> Path:
    """Create and return the folder of a repository in a cache of huggingface_hub."""
    folder = weights / cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    return snapshot


def small(**changes) -> dict:
    """Sizes of a small BERT, in the names of most configurations of transformers."""
    return {
        "vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 512, "initializer_range": 0.5, **changes,
    }


def write_word_pieces(folder: Path) -> None:
    """Write the tokenizer of an uncased BERT whose vocabulary is `WORDS`."""
    from tokenizers import BertWordPieceTokenizer

    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    settings |= {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_encoder(weights: Path, repository: str, model) -> None:
    """Write a model and a tokenizer as a repository of the hub."""
    folder = hub_folder(weights, repository)
    model.save_pretrained(folder)
    write_word_pieces(folder)


def write_bertscore(weights: Path) -> None:
    """DistilBERT, and DistilRoBERTa with its byte-level tokenizer."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

    write_encoder(weights, "distilbert-base-uncased", DistilBertModel(DistilBertConfig(
        vocab_size=len(WORDS), dim=16, hidden_dim=16, n_heads=2, n_layers=6, initializer_range=0.5
    )))
    folder = hub_folder(weights, "distilroberta-base")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(WORDS, vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "RobertaTokenizer", "model_max_length": 512})
    )
    RobertaModel(RobertaConfig(**small(
        vocab_size=300, num_hidden_layers=6, max_position_embeddings=514, pad_token_id=1, bos_token_id=0, eos_token_id=2
    ))).save_pretrained(folder)


def write_modern_bert(weights: Path) -> None:
    """The package's own encoder, a ModernBERT of as many layers as the published one."""
    from transformers import ModernBertConfig, ModernBertModel

    write_encoder(weights, "IAMJB/RadEvalModernBERT", ModernBertModel(ModernBertConfig(**small(
        num_hidden_layers=22, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3
    ))))


def write_radbert_ct(weights: Path) -> None:
    """A classifier of reports into the 18 labels of CT."""
    from transformers import BertConfig, BertForSequenceClassification

    write_encoder(weights, "IAMJB/RadBERT-CT", BertForSequenceClassification(BertConfig(**small(num_labels=18))))


def write_chexbert(weights: Path) -> None:
    """The configuration and the tokenizer of BERT, and the checkpoint of CheXbert."""
    import torch
    from transformers import BertConfig, BertModel

    bert = BertModel(BertConfig(**small()))
    folder = hub_folder(weights, "bert-base-uncased")
    bert.config.save_pretrained(folder)
    write_word_pieces(folder)
    state = {f"module.bert.{name}": tensor for name, tensor in bert.state_dict().items()}
    for number in range(14):
        head = torch.nn.Linear(16, 4 if number < 13 else 2)
        state |= {f"module.linear_heads.{number}.{name}": tensor for name, tensor in head.state_dict().items()}
    checkpoint = hub_folder(weights, "StanfordAIMI/RRG_scorers", "cache/chexbert") / "chexbert.pth"
    torch.save({"model_state_dict": state}, checkpoint)


def write_srrbert(weights: Path) -> None:
    """A classifier of sentences into 101 labels, and the data of NLTK's sentence splitter."""
    import radeval.metrics.SRRBert as package
    from transformers import BertConfig, BertForSequenceClassification

    mapping = json.loads((Path(package.__file__).parent / "leaves_with_statuses_mapping.json").read_text())
    classifier = BertForSequenceClassification(BertConfig(**small(num_labels=len(mapping))))
    write_encoder(weights, "StanfordAIMI/SRR-BERT-Leaves-with-Statuses", classifier)
    write_word_pieces(hub_folder(weights, "microsoft/BiomedVLP-CXR-BERT-general"))
    english = weights / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (english / name).write_text("")


def write_ratescore(weights: Path) -> None:
    """A tagger of entities, and an encoder of them."""
    from transformers import BertConfig, BertModel, DebertaV2Config, DebertaV2ForTokenClassification

    kinds = ("ABNORMALITY", "ANATOMY", "DISEASE", "NON-ABNORMALITY", "NON-DISEASE")
    labels = dict(enumerate(["O", *(f"{place}-{kind}" for kind in kinds for place in "BI")]))
    write_encoder(weights, "Angelakeke/RaTE-NER-Deberta", DebertaV2ForTokenClassification(DebertaV2Config(
        **small(num_labels=len(labels)), id2label=labels, label2id={label: number for number, label in labels.items()}
    )))
    write_encoder(weights, "FremyCompany/BioLORD-2023-C", BertModel(BertConfig(**small())))


def write_radgraph(weights: Path) -> None:
    """The unpacked archives of both RadGraph models; their encoder is on the hub, without weights."""
    import torch
    from radeval.metrics.radgraph import RadGraph
    from transformers import BertConfig

    folder = hub_folder(weights, RADGRAPH_ENCODER)
    BertConfig(**small()).save_pretrained(folder)
    write_word_pieces(folder)
    bert = {"model_name": RADGRAPH_ENCODER, "max_length": 512}
    config = {
        "dataset_reader": {"type": "dygie", "max_span_width": 2, "token_indexers": {"bert": bert}},
        "model": {
            "type": "dygie", "embedder": {"token_embedders": {"bert": bert}}, "initializer": {},
            "module_initializer": {}, "feature_size": 4, "max_span_width": 2, "target_task": "relation",
            "feedforward_params": {"num_layers": 1, "hidden_dims": 16, "dropout": 0.4},
            "loss_weights": {"ner": 0.2, "relation": 1.0, "coref": 0.0, "events": 0.0},
            "modules": {
                "ner": {}, "coref": {"spans_per_word": 0.3, "max_antecedents": 5}, "relation": {"spans_per_word": 0.5},
                "events": {
                    "trigger_spans_per_word": 0.3, "argument_spans_per_word": 0.8, "loss_weights": {},
                },
            },
        },
    }
    entities = ["", "Anatomy::definitely present", "Observation::definitely present", "Observation::definitely absent"]
    relations = ["", "located_at", "modify", "suggestive_of"]
    for model in ("radgraph", "radgraph-xl"):
        folder = weights / "cache" / "radgraph" / "0.1.18" / model
        (folder / "vocabulary").mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "vocabulary" / "non_padded_namespaces.txt").write_text("*labels\n*tags\n")
        for namespace, labels in (("ner_labels", entities), ("relation_labels", relations)):
            (folder / "vocabulary" / f"{model}__{namespace}.txt").write_text("\n".join(labels) + "\n")
        with mock.patch("torch.load", lambda *_, **__: {}), \
                mock.patch("torch.nn.Module.load_state_dict", lambda *_, **__: None):
            random = RadGraph(model_type=model, cuda=-1).model
        torch.save(random.state_dict(), folder / "weights.th")


def write_language_model(folder: Path, answer: str) -> None:
    """Write a LLaMA that answers every prompt with `answer`, one token, and then ends."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1, answer: 2}, unk_token="<unk>"))
    tokens.pre_tokenizer = WhitespaceSplit()
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, unk_token="<unk>", eos_token="</s>", pad_token="</s>", chat_template=template
    )
    tokenizer.save_pretrained(folder)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=3, hidden_size=2, intermediate_size=2, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=4096, eos_token_id=1, bos_token_id=1, pad_token_id=1,
    ))
    layer = model.model.layers[0]
    with torch.no_grad():
        # Nothing is added to an embedding, and it decides the next token: the answer, and after it the end.
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        model.lm_head.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    model.save_pretrained(folder)


def write_language_models(weights: Path) -> None:
    """The judges of GREEN and CRIMSON."""
    write_language_model(hub_folder(weights, "StanfordAIMI/GREEN-radllama2-7b"), GREEN_ANSWER)
    write_language_model(hub_folder(weights, "rajpurkarlab/medgemma-4b-it-crimson"), CRIMSON_ANSWER)


def write_weights(weights: Path) -> None:
    """Write the files of all metrics."""
    import torch

    writers = (
        write_bertscore, write_modern_bert, write_radbert_ct, write_chexbert, write_srrbert, write_ratescore,
        write_radgraph, write_language_models,
    )
    for write in writers:
        torch.manual_seed(7)
        write(weights)


def prepare_package() -> None:
    """Make the package find its own RadGraph, use CheXbert without a GPU, and read scikit-learn's private function."""
    import radeval
    import torch

    sys.modules.setdefault("RadEval", radeval)
    if not torch.cuda.is_available():
        scorer = import_module("radeval.metrics.f1chexbert").F1CheXbert
        scorer.__init__.__kwdefaults__["device"] = "cpu"
    labels = import_module("radeval.metrics._chexbert_base")
    check_targets = labels._check_targets
    labels._check_targets = lambda *targets: [None, *check_targets(*targets)[-3:]]


def call_package(references: list[str], generated: list[str], metrics: list[str]) -> dict[str, float]:
    """Return what the package prints for all `metrics` and, for some, what their own classes return."""
    from radeval import RadEval

    printed = RadEval(metrics=metrics, show_progress=False)(refs=references, hyps=generated)
    if "radcliq" in metrics:
        composite = import_module("radeval.metrics.RadCliQv1.radcliq").CompositeMetric()
        printed["radcliq_v1_distance"] = composite.predict(references, generated)[1].mean()
    if "f1chexbert" in metrics:
        *_, of_14, of_5, _, _ = import_module("radeval.metrics.f1chexbert").F1CheXbert().forward(generated, references)
        printed["f1chexbert_all_example_f1"] = of_14["samples avg"]["f1-score"]
        printed["f1chexbert_5_example_f1"] = of_5["samples avg"]["f1-score"]
    return {name: float(value) for name, value in printed.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    os.environ |= environment(folder) | {"HF_HUB_OFFLINE": "1"}
    import_module("nltk").download = lambda *_, **__: False
    prepare_package()
    write_weights(folder)
    texts = json.loads(Path(sys.argv[2]).read_text())
    try:
        import spacy  # noqa: F401
    except (ImportError, ValueError):  # RaTEScore needs a spaCy that runs with the NumPy of the environment
        texts["metrics"].remove("ratescore")
    print(json.dumps(call_package(texts["references"], texts["generated"], texts["metrics"])))

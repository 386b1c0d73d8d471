"""Measures beam search: ours, the published algorithm, and Hugging Face transformers.

    python -m benchmarks decode [--json FILE] [--threads 2] [--repeats 5] [--variants] [--techniques]

`ours` and `published_algorithm` start from the same patch features and annotated graphs (10 sub-graphs per image), with
the same random weights, and generate reports of maximum length. `transformers` is BART's decoder with the same depth,
width and vocabulary, a cache, and one cross-attention over 78 keys (49 patches and 29 sub-graphs). With `--techniques`
also our model with each technique of the R2Gen family: `ours_r2gen`, `ours_cmn`, `ours_camanet`, `ours_xpronet`.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.support.measure import (
    OURS,
    Absent,
    Case,
    Contender,
    Report,
    add_common_arguments,
    compare,
    start_report,
)
from benchmarks.support.workload import TECHNIQUES, TINY, Sizes, build, decode_bytes, decode_flops
from models.sgrrg import SGRRG
from modules.runtime import arrange_for_batches, quantise_decoder

BEAMS = 3
CROSS_ATTENTION_KEYS = 78
PUBLISHED = "published_algorithm"
# (batch, words): with all contenders, and with ours alone.
COMPARED = ((16, 100), (8, 100), (8, 25), (4, 100), (1, 100))
OURS_ALONE = ((16, 50), (16, 200))
TINY_COMPARED, TINY_ALONE = ((2, 6),), ((2, 3),)
VARIANTS = ("bf16", "int8", "compile")


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `decode`."""
    parser = commands.add_parser("decode", help="beam search: ours, the published algorithm, transformers")
    add_common_arguments(parser)
    parser.add_argument("--variants", action="store_true",
                        help="also measure bf16 autocast, int8 quantisation and torch.compile")
    parser.add_argument("--techniques", action="store_true",
                        help="also measure our model with each technique of the R2Gen family")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and print all cases."""
    report = start_report("decode", options)
    sizes, compared, alone = (TINY, TINY_COMPARED, TINY_ALONE) if options.tiny else (Sizes(), COMPARED, OURS_ALONE)
    for batch, words in compared:
        contenders = [
            Contender(OURS, partial(build_ours, sizes.with_batch(batch), words)),
            Contender("transformers", partial(build_transformers, sizes.with_batch(batch), words)),
            Contender(PUBLISHED, partial(build_published, sizes.with_batch(batch), words)),
        ]
        if options.variants and (batch, words) == compared[0]:
            contenders += [
                Contender(f"{OURS}_{name}", partial(build_variant, name, sizes.with_batch(batch), words))
                for name in VARIANTS
            ]
        if options.techniques and (batch, words) == compared[0]:
            contenders += [
                Contender(f"{OURS}_{name}", partial(build_ours, sizes.with_batch(batch), words, technique=name))
                for name in TECHNIQUES
            ]
        report.add(_measure(sizes.with_batch(batch), words, contenders, options.repeats, report))
    for batch, words in alone:
        contenders = [Contender(OURS, partial(build_ours, sizes.with_batch(batch), words))]
        report.add(_measure(sizes.with_batch(batch), words, contenders, options.repeats, report))
    report.write(options.json)


def _measure(sizes: Sizes, words: int, contenders: list[Contender], repeats: int, report: Report) -> Case:
    """Measure one case with its floor, and count the reports that are equal to ours."""
    case = compare(f"batch {sizes.batch}, {words} words, beam {BEAMS}", contenders, repeats, report.threads)
    workload = build(sizes, endless=True)
    flops, read = decode_flops(workload, BEAMS, words), decode_bytes(workload, BEAMS, words)
    case.floor_seconds = report.rates.floor(flops, read)
    ours = case.results[OURS]
    others = {OURS, "transformers", *(f"{OURS}_{technique}" for technique in TECHNIQUES)}
    for name, reports in case.results.items():
        if name not in others:
            equal = sum(report == other for report, other in zip(ours, reports, strict=True))
            case.notes[f"reports of {name} equal to ours"] = f"{equal} of {len(ours)}"
    return case


def build_ours(
    sizes: Sizes, words: int, device: str = "cpu", technique: str | None = None
) -> Callable[[], list[list[int]]]:
    """Return our cached beam search; it returns token ids. technique: as in `build`."""
    workload = build(sizes, endless=True, technique=technique)
    workload.model.eval().to(device)
    if sizes.batch > 1:  # as main_test.py does; a predictor of single studies does not
        arrange_for_batches(workload.model, torch.device(device))
    workload.batch = workload.batch.to(device)
    workload.generate(BEAMS, 2)
    return lambda: workload.generate(BEAMS, words).tolist()


def build_published(sizes: Sizes, words: int) -> Callable[[], list[list[int]]]:
    """Return the published algorithm with the same weights; it returns token ids."""
    model, batch = build(sizes, endless=True).published()
    model.eval()
    model.generate(batch, BEAMS, 2)
    return lambda: model.generate(batch, BEAMS, words).tolist()


def build_variant(variant: str, sizes: Sizes, words: int) -> Callable[[], list[list[int]]]:
    """Return our beam search with one of `VARIANTS`; it returns token ids."""
    workload = build(sizes, endless=True)
    model = workload.model.eval()
    bf16 = variant == "bf16"
    if variant == "int8":
        quantise_decoder(model, torch.device("cpu"))
    elif variant == "compile":
        compile_step(model)

    def generate(new_words: int) -> list[list[int]]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return workload.generate(BEAMS, new_words).tolist()

    generate(min(words, 4))
    return lambda: generate(words)


def compile_step(model: SGRRG, backend: str = "inductor") -> None:
    """Compile the decoder's step with a `backend` of torch.compile, without torch's cache of compiled code.

    Inductor's code for the first word is valid at position 0 only. At the second word the step is compiled again, but
    the cache may return the same code (torch 2.14), which then overwrites the first word with every later one.
    """
    torch.compiler.config.force_disable_caches = True
    model.decoder.step = torch.compile(model.decoder.step, dynamic=True, backend=backend)


def build_transformers(sizes: Sizes, words: int, device: str = "cpu") -> Callable[[], list[list[int]]]:
    """Return beam search with transformers' BART decoder and random weights; the encoder output is given."""
    try:
        from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig
        from transformers.modeling_outputs import BaseModelOutput
    except ImportError as error:
        raise Absent(f"{error}: pip install -r requirements-bench.txt") from error
    config = BartConfig(
        vocab_size=sizes.words, d_model=sizes.width, max_position_embeddings=words + 2, encoder_layers=1,
        decoder_layers=sizes.layers, encoder_attention_heads=sizes.heads, decoder_attention_heads=sizes.heads,
        encoder_ffn_dim=sizes.hidden, decoder_ffn_dim=sizes.hidden, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, forced_eos_token_id=None,
    )
    torch.manual_seed(0)
    model = BartForConditionalGeneration(config).eval().to(device)
    generation = GenerationConfig(
        num_beams=BEAMS, use_cache=True, do_sample=False, eos_token_id=None, pad_token_id=0, bos_token_id=1,
        decoder_start_token_id=1,
    )
    model.generation_config = generation  # the model's default configuration would end reports early
    memory = torch.randn(sizes.batch, CROSS_ATTENTION_KEYS, sizes.width, device=device)

    def generate(new_words: int) -> list[list[int]]:
        with torch.inference_mode():
            encoded = BaseModelOutput(last_hidden_state=memory)
            return model.generate(encoder_outputs=encoded, max_new_tokens=new_words, min_new_tokens=0).tolist()

    generate(2)
    return lambda: generate(words)

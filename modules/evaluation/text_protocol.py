"""What happens to reports before they are compared: by which protocol references are cut, and how words are weighed.

    r2gen   as the R2Gen family does: cleaned references, cut to a number of words, rare words as <unk>
    full    complete cleaned references
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.records import read_records
from data.text.cleaning import clean
from data.text.report_tables import read_reports
from data.text.tokenizer import UNKNOWN_WORD, Tokenizer
from modules.evaluation.metrics.text.cider import DocumentFrequencies
from modules.evaluation.predictions import Predictions

PROTOCOLS = ("r2gen", "full")
CLEANINGS = ("corrected", "iu_xray", "mimic_cxr", "none")
# Of r2gen, as the family trains on MIMIC-CXR.
_MAX_TOKENS, _MIN_COUNT = 100, 3
FULL_APPLIED = {"references": "complete", "rare words": "left as they are"}
# Cleaning would take the brackets off <unk>; no report has this word.
_KEPT_WORD = "unknownwordunknownword"


@dataclass(frozen=True)
class PreparedTexts:
    """Texts ready to be scored.

    references         complete cleaned reports, for labels and triples
    scored_references  what words are compared with
    generated          cleaned as the references were
    training           training reports as the protocol treats references, complete for predictions.jsonl without a
                       named protocol; None without any
    frequencies        CIDEr's document frequencies
    protocol           its name
    words              the protocol as scores of words name it, which says what could not be done
    applied            what was done, in words, by what it was done to
    """

    references: list[str]
    scored_references: list[str]
    generated: list[str]
    training: list[str] | None
    frequencies: DocumentFrequencies
    protocol: str
    words: str
    applied: dict[str, str]


def add_protocol_options(parser: ArgumentParser) -> None:
    """The options that `prepare_texts` reads."""
    parser.add_argument(
        "--protocol", choices=PROTOCOLS,
        help="what references are compared; default: full, and for predictions.jsonl what the evaluation compared",
    )
    parser.add_argument(
        "--cleaning", choices=CLEANINGS, help="rules for both texts; default: corrected, none for predictions.jsonl"
    )
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help=f"r2gen cuts references to N - 1 words (default: {_MAX_TOKENS})"
    )
    parser.add_argument(
        "--training-reports", type=Path, metavar="FILE|DIR",
        help="CSV with columns id and report, or a prepared data set: training reports for <unk>, CIDEr and baselines",
    )
    parser.add_argument(
        "--min-count", type=int, metavar="N",
        help=f"r2gen replaces words with fewer occurrences in the training reports (default: {_MIN_COUNT})",
    )
    parser.add_argument(
        "--document-frequencies", choices=("references", "training"), default="references",
        help="reports that CIDEr counts words in (default: references)",
    )


def prepare_texts(predictions: Predictions, options: Namespace) -> PreparedTexts:
    """The texts of `predictions` as the `options` of `add_protocol_options` want them.

    Raises UserError where training reports are needed and not given, or cannot be read, and for settings of r2gen that
    would change nothing.
    """
    for name, value in (("--max-tokens", options.max_tokens), ("--min-count", options.min_count)):
        if value is not None and options.protocol != "r2gen":
            raise UserError(f"{name} {value} is a setting of r2gen alone: give --protocol r2gen, or leave it out")
    if options.min_count is not None and options.training_reports is None:
        raise UserError(f"--min-count {options.min_count} counts words in training reports: give --training-reports")
    as_evaluated = options.protocol is None and predictions.scored_references is not None
    cleaning = options.cleaning or ("none" if predictions.scored_references is not None else "corrected")
    training = None
    if options.training_reports is not None:
        training = [clean_keeping_unknown(text, cleaning) for text in _training_reports(options.training_reports)]
    elif options.document_frequencies == "training":
        raise UserError("--document-frequencies training needs --training-reports FILE")
    references = [clean_keeping_unknown(text, cleaning) for text in predictions.references]
    written = training
    applied = {"cleaning": f"both texts by the rules '{cleaning}'" if cleaning != "none" else "none: texts as they are"}
    if as_evaluated:
        scored = list(predictions.scored_references)
        protocol = words = str(predictions.evaluation.get("protocol", "as evaluated"))
        applied |= {"references": f"as the evaluation that wrote {predictions.path.name} compared them"}
        done = predictions.evaluation.get("applied", {})
        applied |= {name: done[name] for name in ("cleaning", "references", "rare words") if name in done}
    elif options.protocol == "r2gen":
        scored, protocol, words = _as_r2gen(references, training, options), "r2gen", "r2gen"
        written = None if training is None else _as_r2gen(training, training, options)
        rare = f"those with fewer than {_min_count(options)} occurrences in {options.training_reports}"
        applied |= r2gen_applied(_max_tokens(options), rare)
        if training is None:
            words = "r2gen without <unk>"
            applied["rare words"] = "left as they are: r2gen replaces them by <unk>, which takes --training-reports"
    else:
        scored, protocol, words = references, "full", "full"
        applied |= FULL_APPLIED
    if options.document_frequencies == "training":
        frequencies = DocumentFrequencies.of(training, "training reports")
    else:
        frequencies = DocumentFrequencies.of([text for text in scored if text.strip()], "references")
    applied["CIDEr's document frequencies"] = f"of the {frequencies.documents} {frequencies.source}"
    generated = [clean_keeping_unknown(text, cleaning) for text in predictions.generated]
    return PreparedTexts(references, scored, generated, written, frequencies, protocol, words, applied)


def r2gen_applied(max_tokens: int, rare: str) -> dict[str, str]:
    """What r2gen does to references, in words; `rare`: which words are."""
    return {"references": f"cut to {max_tokens - 1} words", "rare words": f"<unk> for {rare}"}


def intervals_applied(resamples: int, drawn: str, count: int) -> dict[str, str]:
    """How intervals were made, in words: from so many `resamples` of what was `drawn`, of which there are `count`."""
    if resamples and count > 1:
        return {"intervals": f"95 % percentile bootstrap, {resamples} resamples of {drawn}"}
    return {"intervals": f"none: there is one of the {drawn} only" if resamples else "none: --resamples 0"}


def clean_keeping_unknown(text: str, rules: str) -> str:
    """`text` cleaned by `rules` ("none" for not at all) with its <unk> left whole."""
    if rules == "none":
        return text
    return clean(text.replace(UNKNOWN_WORD, _KEPT_WORD), rules).replace(_KEPT_WORD, UNKNOWN_WORD)


def _max_tokens(options: Namespace) -> int:
    return _MAX_TOKENS if options.max_tokens is None else options.max_tokens


def _min_count(options: Namespace) -> int:
    return _MIN_COUNT if options.min_count is None else options.min_count


def _as_r2gen(reports: Sequence[str], training: Sequence[str] | None, options: Namespace) -> list[str]:
    """Reports cut and, with training reports, without rare words; see `Tokenizer.protocol_reference`."""
    max_tokens = _max_tokens(options)
    if max_tokens < 2:
        raise UserError(f"--max-tokens {max_tokens}: a reference needs at least one word, so 2 or more")
    # Without training reports every word is known.
    known = reports if training is None else training
    tokenizer = Tokenizer.from_reports(known, 1 if training is None else _min_count(options), True)
    return [tokenizer.protocol_reference(text, max_tokens) for text in reports]


def _training_reports(path: Path) -> list[str]:
    """Raw training reports. Raises UserError where there are none."""
    if path.is_dir():
        reports = [record["report"] for record in read_records(path, "train")]
    else:
        reports = [report for _, report in read_reports(path)]
    if not reports:
        raise UserError(f"{path} has no training report")
    return reports

"""Prepares reports for comparison: cleaning, cutting of references, rare words, and CIDEr's document frequencies.

    r2gen   as in the R2Gen family: cleaned references, cut to a number of words, rare words as <unk>
    full    complete cleaned references
"""

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data.errors import UserError, wrong_value
from data.records import read_records
from data.sections.marked_text import BOTH, FINDINGS, IMPRESSION, SECTION_CHOICES
from data.text.cleaning import clean
from data.text.report_tables import read_reports
from data.text.tokenizer import UNKNOWN_WORD, Tokenizer
from modules.evaluation.formats.sections import REPORT
from modules.evaluation.metrics.text.cider import DocumentFrequencies
from modules.evaluation.predictions import Predictions

PROTOCOLS = ("r2gen", "full")
CLEANINGS = ("corrected", "iu_xray", "mimic_cxr", "none")
FULL_APPLIED = {"references": "complete", "rare words": "left as they are"}

# Defaults of r2gen: the family's settings for MIMIC-CXR.
_MAX_TOKENS, _MIN_COUNT = 100, 3
# Stands for <unk> during cleaning, which would remove the brackets; no report contains this word.
_UNKNOWN_PLACEHOLDER = "unknownwordunknownword"


@dataclass(frozen=True)
class PreparedTexts:
    """Texts that are ready to be scored.

    references         complete cleaned reports: labels and triples are read from them
    scored_references  the references that scores of words compare with
    generated          generated reports, cleaned as the references are
    training           training reports, cleaned, and cut as the protocol cuts references (complete for
                       predictions.jsonl without --protocol); None without --training-reports
    frequencies        CIDEr's document frequencies
    protocol           name of the protocol
    protocol_label     the same as shown beside scores of words; it also says what the protocol could not do
    applied            what was done, in words: step -> description
    """

    references: list[str]
    scored_references: list[str]
    generated: list[str]
    training: list[str] | None
    frequencies: DocumentFrequencies
    protocol: str
    protocol_label: str
    applied: dict[str, str]


class _ComparedTexts(NamedTuple):
    """The fields of `PreparedTexts` that depend on the protocol."""

    scored_references: list[str]
    training: list[str] | None
    protocol: str
    protocol_label: str
    applied: dict[str, str]


def add_protocol_options(parser: ArgumentParser) -> None:
    """Add the options that `prepare_texts` reads."""
    parser.add_argument(
        "--protocol", choices=PROTOCOLS,
        help="how references are cut; default: full, and for predictions.jsonl as in its evaluation",
    )
    parser.add_argument(
        "--cleaning", choices=CLEANINGS, help="rules for both texts; default: corrected, none for predictions.jsonl"
    )
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help=f"r2gen cuts references to N - 1 words (default: {_MAX_TOKENS})"
    )
    parser.add_argument(
        "--training-reports", type=Path, metavar="FILE|DIR",
        help="CSV with columns id and report, or a prepared data set, of which the section is read that is scored: "
        "training reports for <unk>, CIDEr and baselines",
    )
    parser.add_argument(
        "--min-count", type=int, metavar="N",
        help=f"r2gen replaces words with fewer occurrences in the training reports (default: {_MIN_COUNT})",
    )
    parser.add_argument(
        "--document-frequencies", choices=("references", "training"), default="references",
        help="reports in which CIDEr counts words (default: references)",
    )


def prepare_texts(predictions: Predictions, options: Namespace) -> PreparedTexts:
    """Prepare the texts of `predictions` as the `options` of `add_protocol_options` say.

    Raises UserError if training reports are needed but not given, if they cannot be read, or if an option of r2gen is
    given for another protocol.
    """
    _check_options(options)
    has_scored_references = predictions.scored_references is not None
    cleaning = options.cleaning or ("none" if has_scored_references else "corrected")
    training, described = None, {}
    if options.training_reports is not None:
        training, described = _prepare_training(predictions, options, cleaning)
    references = [clean_keeping_unknown(text, cleaning) for text in predictions.references]
    if options.protocol is None and has_scored_references:
        compared = _as_evaluated(predictions, training)
    elif options.protocol == "r2gen":
        compared = _as_r2gen(references, training, options)
    else:
        compared = _ComparedTexts(references, training, "full", "full", FULL_APPLIED)
    if options.document_frequencies == "training":
        frequencies = DocumentFrequencies.from_reports(training, "training reports")
    else:
        not_empty = [text for text in compared.scored_references if text.strip()]
        frequencies = DocumentFrequencies.from_reports(not_empty, "references")
    return PreparedTexts(
        references=references,
        scored_references=compared.scored_references,
        generated=[clean_keeping_unknown(text, cleaning) for text in predictions.generated],
        training=compared.training,
        frequencies=frequencies,
        protocol=compared.protocol,
        protocol_label=compared.protocol_label,
        applied={
            **({"read as": predictions.taken} if predictions.taken else {}),
            "cleaning": "none: texts as they are" if cleaning == "none" else f"both texts by the rules '{cleaning}'",
            **described,
            **compared.applied,
            "CIDEr's document frequencies": f"of the {frequencies.documents} {frequencies.source}",
        },
    )


def describe_r2gen(max_tokens: int, rare_words: str) -> dict[str, str]:
    """What r2gen does to references, as in `PreparedTexts.applied`; `rare_words` says which words are replaced."""
    return {"references": f"cut to {max_tokens - 1} words", "rare words": f"<unk> for {rare_words}"}


def describe_intervals(resamples: int, units: str, count: int) -> dict[str, str]:
    """How intervals are computed, as in `PreparedTexts.applied`: from resamples of `count` `units` ("studies")."""
    if resamples and count > 1:
        return {"intervals": f"95 % percentile bootstrap, {resamples} resamples of {units}"}
    return {"intervals": f"none: there is one of the {units} only" if resamples else "none: --resamples 0"}


def clean_keeping_unknown(text: str, rules: str) -> str:
    """Clean `text` by `rules` ("none": not at all), leaving <unk> unchanged."""
    if rules == "none":
        return text
    return clean(text.replace(UNKNOWN_WORD, _UNKNOWN_PLACEHOLDER), rules).replace(_UNKNOWN_PLACEHOLDER, UNKNOWN_WORD)


def _check_options(options: Namespace) -> None:
    for name, value in (("--max-tokens", options.max_tokens), ("--min-count", options.min_count)):
        if value is not None and options.protocol != "r2gen":
            raise wrong_value(name, value, "applies only to r2gen: give --protocol r2gen, or leave it out")
    if options.training_reports is None:
        if options.min_count is not None:
            raise wrong_value("--min-count", options.min_count, "needs --training-reports, where it counts words")
        if options.document_frequencies == "training":
            raise wrong_value("--document-frequencies", "training", "needs --training-reports FILE")


def _as_evaluated(predictions: Predictions, training: list[str] | None) -> _ComparedTexts:
    """The references as the evaluation that wrote predictions.jsonl cut them; training reports stay complete."""
    applied = {"references": f"as the evaluation that wrote {predictions.path.name} compared them"}
    evaluated = predictions.evaluation.get("applied", {})
    applied |= {name: evaluated[name] for name in ("cleaning", "references", "rare words") if name in evaluated}
    if predictions.evaluation.get("list"):
        applied["list"] = f"the studies of the list {predictions.evaluation['list']}"
    protocol = str(predictions.evaluation.get("protocol", "as evaluated"))
    return _ComparedTexts(list(predictions.scored_references), training, protocol, protocol, applied)


def _as_r2gen(references: list[str], training: list[str] | None, options: Namespace) -> _ComparedTexts:
    """References and training reports, cut and, if there are training reports, without rare words."""
    max_tokens = _MAX_TOKENS if options.max_tokens is None else options.max_tokens
    min_count = _MIN_COUNT if options.min_count is None else options.min_count
    if max_tokens < 2:
        raise wrong_value("--max-tokens", max_tokens, "must be at least 2, which is one word")
    if training is None:
        tokenizer = Tokenizer.from_reports(references, 1, True)  # every word is known
        label = "r2gen without <unk>"
        rare = {"rare words": "left as they are: r2gen replaces them by <unk>, which takes --training-reports"}
    else:
        tokenizer = Tokenizer.from_reports(training, min_count, True)
        label, rare = "r2gen", {}
    fewer = f"those with fewer than {min_count} occurrences in {options.training_reports}"
    return _ComparedTexts(
        scored_references=[tokenizer.protocol_reference(text, max_tokens) for text in references],
        training=None if training is None else [tokenizer.protocol_reference(text, max_tokens) for text in training],
        protocol="r2gen",
        protocol_label=label,
        applied=describe_r2gen(max_tokens, fewer) | rare,
    )


def _prepare_training(
    predictions: Predictions, options: Namespace, cleaning: str
) -> tuple[list[str], dict[str, str]]:
    """Return the complete cleaned training reports, and what was done to them if it is not what is done to both texts.

    Of a prepared data set, they are the section that is scored, or what the model of the predictions writes. Our own
    predictions need no cleaning, but their training reports do.

    cleaning   of both texts
    """
    rules, described = cleaning, {}
    if options.cleaning is None and predictions.scored_references is not None:
        evaluated = predictions.evaluation.get("cleaning")
        rules = evaluated if evaluated in CLEANINGS else "corrected"  # older metrics.json do not name them
        described = {"training reports": f"cleaned by the rules '{rules}'"}
    sections = predictions.section
    if sections == REPORT:
        writes = predictions.evaluation.get("writes")
        sections = writes if writes in SECTION_CHOICES else FINDINGS
    reports = _read_training_reports(options.training_reports, sections)
    return [" ".join(clean_keeping_unknown(part, rules) for part in parts) for parts in reports], described


def _read_training_reports(path: Path, sections: str) -> list[list[str]]:
    """Raw training reports, one or several texts each, of a prepared data set or a table.

    sections   of a data set; one of `data.sections.marked_text.SECTION_CHOICES`

    Raises UserError if there are none.
    """
    if not path.is_dir():
        reports = [[report] for _, report in read_reports(path)]
        if not reports:
            raise UserError(f"{path} has no training reports: give a file with at least one")
        return reports
    keys = {FINDINGS: ("report",), IMPRESSION: ("impression",), BOTH: ("report", "impression")}[sections]
    texts = ([record.get(key) for key in keys] for record in read_records(path, "train"))
    reports = [parts for of_study in texts if (parts := [text for text in of_study if text is not None])]
    if not reports:
        lacking = " with an impression" if sections == IMPRESSION else ""
        raise UserError(f"{path} has no training reports{lacking}: give a data set with at least one")
    return reports

"""Building vocabularies from training splits: words, attributes, and mean boxes as the atlas."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data.context.counts import count_impression_words, count_indication_words
from data.errors import wrong_value
from data.mixture.statistics import joined_statistics
from data.ontology import FILES, Anatomy, observation_names, read_yaml
from data.sections.marked_text import BOTH, FINDINGS, IMPRESSION, MARKERS
from data.storage.statistics import TrainingStatistics
from data.text.tokenizer import Tokenizer
from data.vocabulary import AttributeVocabulary, Vocabularies


def build_vocabularies(
    root: str | Path | Sequence[str | Path],
    cleaning: str,
    min_word_count: int,
    min_attribute_count: int,
    distinct_special_tokens: bool,
    atlas_file: str | Path | None = None,
    indications: bool = False,
    sections: str = FINDINGS,
) -> Vocabularies:
    """Build the vocabularies from the training split of the prepared data set in `root`, or of all if it names several.

    Words need at least `min_word_count` occurrences in the `sections` of reports, or with `indications` in these and
    indications together, and attributes `min_attribute_count` in their region. The atlas boxes are those of
    `atlas_file`; by default the mean boxes of the training split, or the shipped ones for regions without a box there.
    The split is counted at the first call only (see `data.storage.statistics`). Raises UserError as
    `joined_statistics`, `count_report_words` and `Anatomy.load` do.
    """
    anatomy = Anatomy.load(atlas_file)
    rule = "default"
    categories = set(read_yaml(FILES / "attributes.yaml")["rules"][rule])
    roots = [root] if isinstance(root, str | Path) else root
    statistics = joined_statistics(roots, cleaning)
    words = count_report_words(statistics, roots, cleaning, sections)
    if indications:
        words.update(count_indication_words(roots, cleaning))
    if sections == BOTH:
        words.update(dict.fromkeys(MARKERS.values(), min_word_count))
    if atlas_file is None:
        anatomy = anatomy.with_boxes(statistics.mean_boxes)
    return Vocabularies(
        anatomy=anatomy,
        attributes=AttributeVocabulary(
            tuple(
                _frequent_attributes(statistics.attributes.get(name, {}), min_attribute_count, categories)
                for name in anatomy.names
            ),
            rule,
        ),
        observations=observation_names(),
        tokenizer=Tokenizer.from_counts(words, min_word_count, distinct_special_tokens),
    )


def count_report_words(
    statistics: TrainingStatistics, roots: Sequence[str | Path], cleaning: str, sections: str = FINDINGS
) -> Counter:
    """Return how often each word occurs in the `sections` of the cleaned reports of the training splits.

    statistics: of the training splits of `roots`. Raises UserError if impressions are asked for and no study has one.
    """
    words: Counter = Counter()
    if sections in (FINDINGS, BOTH):
        words.update(statistics.words)
    if sections in (IMPRESSION, BOTH):
        impressions = count_impression_words(roots, cleaning)
        if not impressions:
            folders = ", ".join(map(str, roots))
            rule = f"no training study of {folders} has an impression: prepare it again, or use {FINDINGS}"
            raise wrong_value("data.sections", sections, rule)
        words.update(impressions)
    return words


def _frequent_attributes(counts: Mapping[str, int], min_count: int, categories: Iterable[str]) -> tuple[str, ...]:
    """Return the sorted attributes of the `categories` with at least `min_count` occurrences.

    The attributes of the release's own files have no category (`region/number`): they pass, sorted by number as in
    the release.
    """
    frequent = [
        attribute
        for attribute, count in counts.items()
        if count >= min_count and ("|" not in attribute or attribute.split("|", 1)[0] in categories)
    ]
    return tuple(sorted(frequent, key=_natural_sort_key))


def _natural_sort_key(attribute: str) -> tuple[str, int]:
    """Return the key that sorts "lung/10" after "lung/9", and attributes of any other form alphabetically."""
    numbered = re.fullmatch(r"([^|]*/)([0-9]+)", attribute)
    return (numbered[1], int(numbered[2])) if numbered else (attribute, 0)

"""Vocabularies from a training split: its words, its attributes, and its mean boxes as the atlas."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data.images.atlas import MeanBox
from data.ontology import FILES, Anatomy, observation_names, read_yaml
from data.records import MALFORMED_GRAPH, is_frontal, malformed_graph, read_records
from data.text.cleaning import clean
from data.text.tokenizer import Tokenizer
from data.vocabulary import AttributeVocabulary, Vocabularies


def build_vocabularies(
    root: str | Path,
    cleaning: str,
    min_word_count: int,
    min_attribute_count: int,
    distinct_special_tokens: bool,
    atlas_file: str | Path | None = None,
) -> Vocabularies:
    """The vocabularies of the training split of the prepared data set in `root`.

    Words and, region by region, attributes enter with at least `min_word_count` and `min_attribute_count` occurrences.
    The atlas boxes are those of `atlas_file`; without one, the mean boxes of the training split, and for regions
    without any box there the shipped ones. Raises UserError as `read_records` and `Anatomy.load` do, and for a graph
    that is not of the schema's form.
    """
    anatomy = Anatomy.load(atlas_file)
    rule = "default"
    kept_categories = set(read_yaml(FILES / "attributes.yaml")["rules"][rule])
    reports = []
    counts = [Counter() for _ in anatomy.regions]
    boxes = [MeanBox() for _ in anatomy.regions]
    for record in read_records(root, "train"):
        reports.append(clean(record["report"], cleaning))
        if record["graph"] is None or not is_frontal(record):
            continue
        try:
            for name, region in record["graph"]["regions"].items():
                position = anatomy.index(name)
                counts[position].update(region["attributes"])
                if region["box"] is not None:
                    boxes[position].add(region["box"])
        except MALFORMED_GRAPH as error:
            raise malformed_graph(record, error) from error
    if atlas_file is None:
        anatomy = anatomy.with_boxes(
            {name: box.mean for name, box in zip(anatomy.names, boxes, strict=True) if box.count > 0}
        )
    return Vocabularies(
        anatomy=anatomy,
        attributes=AttributeVocabulary(
            tuple(_frequent(count, min_attribute_count, kept_categories) for count in counts), rule
        ),
        observations=observation_names(),
        tokenizer=Tokenizer.from_reports(reports, min_word_count, distinct_special_tokens),
    )


def _frequent(counts: Counter, min_count: int, kept_categories: Iterable[str]) -> tuple[str, ...]:
    """The attributes of the kept categories with at least `min_count` occurrences, alphabetical.

    Those of the release's own files are called `region/number` and have no category: they are kept, by their numbers
    as in the release.
    """
    kept = [
        attribute
        for attribute, count in counts.items()
        if count >= min_count and ("|" not in attribute or attribute.split("|", 1)[0] in kept_categories)
    ]
    return tuple(sorted(kept, key=_by_number))


def _by_number(attribute: str) -> tuple[str, int]:
    """What sorts "lung/10" behind "lung/9", and names of any other form by their letters."""
    numbered = re.fullmatch(r"([^|]*/)([0-9]+)", attribute)
    return (numbered[1], int(numbered[2])) if numbered else (attribute, 0)

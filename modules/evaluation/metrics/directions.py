"""Whether a higher value of a score is better, and the arrow that says so in tables."""

from modules.evaluation.metrics.text import diversity

# Numbers that describe the reports: neither direction is better.
_DESCRIPTIONS = frozenset(name for name in diversity.NAMES if name.startswith(("generated_words", "reference_words")))
_DESCRIPTIONS |= {
    "empty_references", "change_macro_f1_unchanged", "comparison_accuracy_unchanged", "comparison_accuracy_frequent",
}
_LOWER = (
    "most_frequent_share", "repeated_sentences", "abnormal_as_normal", "sentence_error_", "region_ece", "attribute_ece",
    "observation_ece", "invented_comparisons",
)


def higher_is_better(name: str) -> bool | None:
    """Return whether a higher value of our score `name` is better; None if neither direction is."""
    if name in _DESCRIPTIONS:
        return None
    return not name.startswith(_LOWER)


def arrow(higher: bool | None) -> str:
    """Return the arrow towards better values; empty if neither direction is better."""
    return "" if higher is None else "\N{UPWARDS ARROW}" if higher else "\N{DOWNWARDS ARROW}"

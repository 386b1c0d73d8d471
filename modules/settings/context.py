"""Settings of the context: what a model reads beside the images, and what of it is used."""

from enum import StrEnum

from data.context.settings import CONTEXTS, INDICATION, PRIOR
from data.errors import truncate_list, wrong_value
from modules.settings.model import ModelConfig


class ContextUse(StrEnum):
    """What of a study's context is shown to a model that reads it."""

    NONE = "none"
    INDICATION = "indication"
    PRIOR = "prior"
    ALL = "all"

    @property
    def includes_indication(self) -> bool:
        """Whether the indication is shown."""
        return self in (ContextUse.INDICATION, ContextUse.ALL)

    @property
    def includes_prior(self) -> bool:
        """Whether the previous study is shown."""
        return self in (ContextUse.PRIOR, ContextUse.ALL)


def check_context(model: ModelConfig) -> None:
    """Raise UserError, naming the setting, if the context is not one that a model can read."""
    unknown = [name for name in model.context if name not in CONTEXTS]
    if unknown or len(set(model.context)) < len(model.context):
        rule = f"must be a list without repetitions of {truncate_list(CONTEXTS, ', ')}"
        raise wrong_value("model.context", list(model.context), rule)
    if model.context and not model.report:
        raise wrong_value("model.context", list(model.context), "needs model.report=true: the words read the context")
    needs = {"prior_report": PRIOR, "indication_evidence": INDICATION}
    for name, part in needs.items():
        if getattr(model, name) and part not in model.context:
            raise wrong_value(f"model.{name}", True, f"needs {part} in model.context")

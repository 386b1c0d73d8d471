"""Builds what reads the context: the settings of the data sets, and the parts of the model."""

from data.context.settings import INDICATION, PRIOR, ContextSettings
from data.ontology import CHANGES, RESOLVED
from data.vocabulary import Vocabularies
from models.context.change_head import ChangeHead
from models.context.context_parts import ContextParts
from models.context.indication_evidence import IndicationEvidence
from models.context.text_encoder import TextEncoder
from models.layers.norms import LayerStyle
from modules.config import Config
from modules.settings.model import ModelConfig


def context_settings(config: Config, train: bool) -> ContextSettings | None:
    """Return what data sets read beside the images; None for `model.context=[]`."""
    model = config.model
    if not model.context:
        return None
    return ContextSettings(
        indication=INDICATION in model.context, prior=PRIOR in model.context, prior_report=model.prior_report,
        dropout=config.train.context_dropout if train else 0.0,
    )


def build_context_parts(
    settings: ModelConfig, channels: int, vocabularies: Vocabularies, style: LayerStyle
) -> ContextParts | None:
    """Build the parts that read the context; None for `model.context=[]`."""
    if not settings.context:
        return None
    text_encoder = change_head = None
    if INDICATION in settings.context or settings.prior_report:
        text_encoder = TextEncoder(
            settings.width, settings.heads, settings.feedforward, dropout=settings.dropout, style=style
        )
    if PRIOR in settings.context and settings.graph_in != "none":
        change_head = ChangeHead(channels, settings.width, len(CHANGES), settings.dropout)
    evidence = IndicationEvidence(settings.width, channels) if settings.indication_evidence else None
    return ContextParts(
        settings.width, text_encoder, reads_indication=INDICATION in settings.context,
        reads_prior=PRIOR in settings.context, reads_prior_report=settings.prior_report, change_head=change_head,
        resolved=CHANGES.index(RESOLVED), abnormal_slots=vocabularies.attributes.abnormal_slots(),
        evidence=evidence,
    )

"""Which context a data set reads."""

from dataclasses import dataclass

INDICATION, PRIOR = CONTEXTS = ("indication", "prior")


@dataclass(frozen=True)
class ContextSettings:
    """What to read beside the images.

    indication     why the study was requested
    prior          the frontal image of the patient's previous study
    prior_report   the report of that study
    dropout        probability to hide the indication, and independently the previous study, in training
    """

    indication: bool = False
    prior: bool = False
    prior_report: bool = False
    dropout: float = 0.0

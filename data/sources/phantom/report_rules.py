"""The rules that decide which statements a phantom report makes: topics, normal statements and remarks."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.sources.phantom.findings import SIDES, Finding

TOPICS = (
    "technique", "comparison", "lungs", "pleura", "heart", "mediastinum", "diaphragm", "bones", "devices", "impression",
)
MOVABLE_TOPICS = TOPICS[2:-1]

TOPIC_OF_KIND = {
    "pleural effusion": "pleura", "pneumothorax": "pleura", "cardiomegaly": "heart",
    "widened mediastinum": "mediastinum", "tortuous aorta": "mediastinum", "calcified aorta": "mediastinum",
    "raised hemidiaphragm": "diaphragm", "rib fracture": "bones", "scoliosis": "bones",
    "pacemaker": "devices", "central line": "devices", "endotracheal tube": "devices",
}

# Attributes that Chest ImaGenome adds to the label of a finding: its parent finding, or a texture named in its phrases.
EXTRA_ATTRIBUTES = {
    "consolidation": ("anatomicalfinding|yes|lung opacity",),
    "patchy atelectasis": ("anatomicalfinding|yes|lung opacity",),
    "edema": ("texture|yes|interstitial",),
    "calcified aorta": ("texture|yes|calcified",),
}

# A report on findings of these kinds alone, which are easily missed, makes the same routine statements as a normal one.
# So a reader of the image who misses them is still right about most of the report.
MINOR_KINDS = frozenset({
    "nodule", "linear atelectasis", "rib fracture", "tortuous aorta", "calcified aorta", "central line",
    "endotracheal tube",
})


@dataclass(frozen=True)
class NormalStatement:
    """A statement that regions are free of something, and the circumstances that trigger it.

    If its regions have a side, the statement is made for each side separately, or for both in one sentence.

    regions     {side} is replaced by the side of the statement
    denies      Chest ImaGenome's `category|label`
    when        circumstances that trigger it, on either side (see `circumstances_of`)
    when_same_side, when_other_side   kinds of finding that trigger it on their own side, or on the other one
    unless      kinds that suppress it; a statement about one side is not suppressed by findings on the other side only
    unaffected_only   restrict it to regions that no finding affects; the phrase lists them as {zones}
    """

    key: str
    topic: str
    regions: tuple[str, ...]
    denies: str
    when: frozenset[str] = frozenset()
    when_same_side: frozenset[str] = frozenset()
    when_other_side: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()
    unaffected_only: bool = False

    @property
    def has_side(self) -> bool:
        """Whether its regions have a side."""
        return any("{side}" in region for region in self.regions)

    def is_triggered(self, side: str, findings: Sequence[Finding], circumstances: set[str]) -> bool:
        """Return whether the findings and circumstances of a study trigger the statement for `side`."""
        other_side = SIDES[1 - SIDES.index(side)]
        kinds_here = {finding.kind for finding in findings if finding.side == side}
        kinds_there = {finding.kind for finding in findings if finding.side == other_side}
        suppressing = {finding.kind for finding in findings}
        if self.has_side:
            suppressing -= kinds_there - kinds_here
        triggers = (
            circumstances & self.when or kinds_here & self.when_same_side or kinds_there & self.when_other_side
        )
        return bool(triggers) and not suppressing & self.unless


NORMAL_STATEMENTS = (
    NormalStatement(
        "zones clear", "lungs", ("{side} upper lung zone", "{side} mid lung zone", "{side} lower lung zone"),
        "anatomicalfinding|lung opacity", when=frozenset({"low lung volumes"}),
        when_same_side=frozenset({"consolidation", "patchy atelectasis", "mass", "pleural effusion"}),
        unless=frozenset({"edema"}), unaffected_only=True),
    NormalStatement(
        "no bullae", "lungs", ("{side} apical zone", "{side} upper lung zone"), "anatomicalfinding|cyst/bullae",
        when=frozenset({"hyperinflation"}), unless=frozenset({"pneumothorax"})),
    NormalStatement(
        "no pneumothorax", "pleura", ("{side} apical zone",), "anatomicalfinding|pneumothorax",
        when=frozenset({"pacemaker", "central line", "endotracheal tube"}),
        when_other_side=frozenset({"pneumothorax"}), unless=frozenset({"pneumothorax"})),
    NormalStatement(
        "no effusion", "pleura", ("{side} costophrenic angle",), "anatomicalfinding|pleural effusion",
        when=frozenset({"routine"}), when_other_side=frozenset({"pleural effusion"}),
        unless=frozenset({"pleural effusion"})),
    NormalStatement(
        "heart normal", "heart", ("cardiac silhouette",), "anatomicalfinding|enlarged cardiac silhouette",
        when=frozenset({"routine"}), unless=frozenset({"cardiomegaly"})),
    NormalStatement(
        "no congestion", "heart", ("left hilar structures", "right hilar structures"),
        "anatomicalfinding|vascular congestion",
        when=frozenset({"cardiomegaly", "low lung volumes"}), unless=frozenset({"edema"})),
    NormalStatement(
        "veins not distended", "heart", ("svc", "right atrium"), "anatomicalfinding|vascular congestion",
        when=frozenset({"cardiomegaly", "edema"})),
    NormalStatement(
        "no adenopathy", "mediastinum", ("left hilar structures", "right hilar structures"),
        "anatomicalfinding|enlarged hilum", when=frozenset({"mass"})),
    NormalStatement(
        "no widening", "mediastinum", ("upper mediastinum", "mediastinum"), "anatomicalfinding|mediastinal widening",
        when=frozenset({"pneumothorax", "scoliosis", "consolidation"}), unless=frozenset({"widened mediastinum"})),
    NormalStatement(
        "airway midline", "mediastinum", ("trachea", "carina"), "anatomicalfinding|mediastinal displacement",
        when=frozenset({"routine", "widened mediastinum"}), unless=frozenset({"endotracheal tube"})),
    NormalStatement(
        "aorta normal", "mediastinum", ("aortic arch",), "anatomicalfinding|tortuous aorta",
        when=frozenset({"cardiomegaly", "widened mediastinum"}),
        unless=frozenset({"tortuous aorta", "calcified aorta"})),
    NormalStatement(
        "diaphragm normal", "diaphragm", ("{side} hemidiaphragm",), "anatomicalfinding|elevated hemidiaphragm",
        when=frozenset({"low lung volumes"}), when_same_side=frozenset({"patchy atelectasis"}),
        when_other_side=frozenset({"raised hemidiaphragm"}),
        unless=frozenset({"raised hemidiaphragm", "hyperinflation"})),
    NormalStatement(
        "no free air", "diaphragm", ("abdomen",), "anatomicalfinding|sub-diaphragmatic air",
        when=frozenset({"raised hemidiaphragm", "low lung volumes", "hyperinflation", "routine PA"})),
    NormalStatement(
        "clavicles intact", "bones", ("left clavicle", "right clavicle"), "anatomicalfinding|clavicle fracture",
        when=frozenset({"routine", "scoliosis"})),
    NormalStatement(
        "spine intact", "bones", ("spine",), "anatomicalfinding|spinal fracture",
        when=frozenset({"pneumothorax", "hyperinflation", "widened mediastinum"})),
    NormalStatement(
        "no venous line", "devices", ("cavoatrial junction",), "tubesandlines|ij line",
        when=frozenset({"pacemaker", "endotracheal tube", "edema"}), unless=frozenset({"central line"})),
    NormalStatement(
        "bases clear", "lungs", ("{side} lower lung zone",), "anatomicalfinding|lung opacity",
        when=frozenset({"routine AP"}), unaffected_only=True),
)


@dataclass(frozen=True)
class Remark:
    """A statement about no region in particular, made at random.

    probability, probability_when_normal   in a study with findings, and in one without
    when     circumstances that allow it, any of them; empty if it is always allowed
    unless   circumstances that forbid it
    """

    key: str
    topic: str
    probability: float
    probability_when_normal: float
    when: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()


_DEVICES = frozenset({"pacemaker", "central line", "endotracheal tube"})

REMARKS = (
    Remark("indication", "technique", 0.10, 0.10),
    Remark("technique PA", "technique", 0.85, 0.85, when=frozenset({"PA"})),
    Remark("technique AP", "technique", 0.85, 0.85, when=frozenset({"AP"})),
    Remark("quality", "technique", 0.10, 0.20, unless=frozenset({"low lung volumes"})),
    Remark("rotated", "technique", 0.90, 0.90, when=frozenset({"rotated"})),
    Remark("tilted", "technique", 0.90, 0.90, when=frozenset({"tilted"})),
    Remark("thick chest wall", "technique", 0.90, 0.90, when=frozenset({"thick chest wall"})),
    Remark("breast shadows", "technique", 0.90, 0.90, when=frozenset({"breast shadows"})),
    Remark("stomach bubble", "technique", 0.90, 0.90, when=frozenset({"stomach bubble"})),
    Remark("no airspace disease", "lungs", 0.0, 0.75),
    Remark("bones normal", "bones", 0.10, 0.35, unless=frozenset({"rib fracture", "scoliosis"})),
    Remark("soft tissues normal", "bones", 0.08, 0.25),
    Remark("no devices", "devices", 0.06, 0.20, unless=_DEVICES),
    Remark("nothing acute", "impression", 0.0, 0.80),
    Remark("nothing else", "impression", 0.30, 0.0),
    Remark("follow up", "impression", 0.60, 0.0, when=frozenset({"nodule", "mass"})),
    Remark("correlate", "impression", 0.10, 0.0),
)


def circumstances_of(findings: Sequence[Finding], view: str) -> set[str]:
    """Return the circumstances that decide which statements a report makes.

    They are the kinds of finding and the view; "routine" and "routine PA" or "routine AP" if all findings are of
    `MINOR_KINDS`; and "normal" if there are none.
    """
    circumstances = {finding.kind for finding in findings}
    if circumstances <= MINOR_KINDS:
        circumstances |= {"routine", f"routine {view}"}
    return circumstances | {view} | (set() if findings else {"normal"})

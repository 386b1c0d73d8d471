"""Which column of a table has the id, the reference and the generated report."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from data.errors import UserError, unknown_name, wrong_value

ID, REFERENCE, GENERATED = "id", "reference", "generated"
ROLES = (ID, REFERENCE, GENERATED)
# Findings and impression in columns of their own, instead of the complete report.
SECTION_ROLES = {text: (f"{text}_findings", f"{text}_impression") for text in (REFERENCE, GENERATED)}

# Other names of columns, taken if a table has exactly one of them.
_ALIASES: dict[str, tuple[str, ...]] = {
    ID: ("study_id", "study", "image_id", "uid"),
    REFERENCE: ("ground_truth", "groundtruth", "gt", "ref", "reference_report", "gt_report"),
    GENERATED: ("prediction", "pred", "model_prediction", "hypothesis", "generated_report", "pred_report"),
}


def parse_columns(text: str) -> dict[str, str]:
    """Parse "id=COLUMN,reference=COLUMN,generated=COLUMN": role -> column. Raises UserError if it is malformed."""
    known = (*ROLES, *(role for roles in SECTION_ROLES.values() for role in roles))
    columns: dict[str, str] = {}
    for part in text.split(","):
        role, sign, column = (piece.strip() for piece in part.partition("="))
        if not sign or not role or not column:
            raise wrong_value("--columns", text, "write id=COLUMN,reference=COLUMN,generated=COLUMN")
        if role not in known:
            raise unknown_name("text", role, known, "--columns")
        if role in columns:
            raise wrong_value("--columns", text, f"names {role} twice")
        columns[role] = column
    for text_role, sections in SECTION_ROLES.items():
        if text_role in columns and set(sections) & set(columns):
            raise wrong_value("--columns", text, f"names {text_role} both as a whole and by section")
    return columns


def find_columns(
    header: Iterable[str], roles: Iterable[str], chosen: Mapping[str, str], path: Path, extra: Mapping[str, str]
) -> dict[str, str]:
    """Return the column of each of `roles` that the table has: role -> column; absent roles are left out.

    A column is the `chosen` one, that named like the role, one of its other names, or its `extra` name, in this order.
    Raises UserError if a chosen column is missing, or if several other names fit.
    """
    header = list(header)
    found: dict[str, str] = {}
    for role in roles:
        if role in chosen:
            if chosen[role] not in header:
                raise unknown_name("column", chosen[role], header, f"{path}: --columns {role}")
            found[role] = chosen[role]
            continue
        names = [name for name in _ALIASES.get(role, ()) if name in header]
        if role in header:
            found[role] = role
        elif len(names) > 1:
            raise UserError(f"{path} has {' and '.join(names)}: say which one is the {role}, with --columns "
                            f"{role}=COLUMN")
        elif names or extra.get(role) in header:
            found[role] = names[0] if names else extra[role]
    return found

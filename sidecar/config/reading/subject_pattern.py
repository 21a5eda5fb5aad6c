"""Patterns for the ``sub`` of workloads."""

import re

_MAX_WILDCARDS = 8
_ANY = r"[^:/@\x00-\x20\x7f]+"


def compile_subject_pattern(text: str) -> re.Pattern[str]:
    """The expression that a whole ``sub`` must match. ``:`` and ``/`` separate segments; ``*`` stays inside one.

    Raises ValueError. A segment has at most one ``*``: the time of a match grows with the length of the subject only.
    """
    if not text.isprintable() or "*" not in text:
        raise ValueError("must be printable and contain *; write an exact subject as subject")
    if text.count("*") > _MAX_WILDCARDS:
        raise ValueError(f"has more than {_MAX_WILDCARDS} wildcards")
    parts = re.split("([:/])", text)
    if any(part.count("*") > 1 for part in parts):
        raise ValueError("has more than one * between two separators (: and /)")
    return re.compile("".join(re.escape(part).replace(r"\*", _ANY) for part in parts))

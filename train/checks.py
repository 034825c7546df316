"""Checks of a config's values, with messages that name what there is."""

import difflib


def near(name: str, known: list[str]) -> str:
    """The closest of the known names as a question, or all of them.

    Args:
      name: what was typed.
      known: what exists.

    Returns:
      Text to end an error with.
    """
    matches = difflib.get_close_matches(name, known, n=3)
    if matches:
        return f"did you mean {' or '.join(matches)}?"
    return f"there is: {', '.join(known) or 'nothing'}."

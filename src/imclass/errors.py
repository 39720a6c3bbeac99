"""What a user can mend."""


class InputError(ValueError):
    """A user's mistake, told in one message: which file, key or row, what was expected and what was found."""


def list_problems(problems: list[str], most: int = 20) -> str:
    """Join problems as indented lines, at most `most` of them, the rest as a count."""
    shown = [f"  {problem}" for problem in problems[:most]]
    if len(problems) > most:
        shown.append(f"  and {len(problems) - most} more")
    return "\n".join(shown)

"""The lines of a command on stderr, without those that name the stages of its work."""

import re

STAGE = re.compile(r"(export|inspect|build|verify): .*\n")


def without_stages(stderr: str) -> str:
    """The notes and the error, which are all that is left of what a command said."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not STAGE.fullmatch(line))

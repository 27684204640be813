"The command `iqa-repro`; the console script calls `main` here"

from .root import main, make_app
from .common import ErrorsInOneLine

__all__ = ["ErrorsInOneLine", "main", "make_app"]

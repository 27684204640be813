__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a checker is told; running, nothing is loaded before it is called
    from .app.adapt.run import adapt as adapt
    from .app.explaining import explain as explain
    from .app.scorer import load as load
    from .app.scorer import score as score
    from .app.scoring import score_files as score_files

# What people call most, without loading anything before it is called: iqa_repro.load, iqa_repro.score, iqa_repro.adapt.
_PLACES = {
    "load": "app.scorer",
    "score": "app.scorer",
    "score_files": "app.scoring",
    "adapt": "app.adapt.run",
    "explain": "app.explaining",
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from .core.startup import collector_paused

    with collector_paused():
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])

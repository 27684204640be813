__version__ = "0.1.0"

# What people call most, without loading anything before it is called: iqa_repro.load, iqa_repro.score, iqa_repro.adapt.
_PLACES = {
    "load": "app.scorer",
    "score": "app.scorer",
    "score_files": "app.scoring",
    "adapt": "app.adaptation",
    "explain": "app.explaining",
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__():
    return sorted([*globals(), *_PLACES])

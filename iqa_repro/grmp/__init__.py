"Former names of `iqa_repro.methods.grmp`, kept for those who import them"

import sys

from iqa_repro.methods.grmp import finetune, meta, model, prompts, qgr, recipes, released

_MODULES = {"finetune": finetune, "meta": meta, "model": model, "prompts": prompts, "qgr": qgr, "recipes": recipes}
_MODULES |= {"released": released}
sys.modules.update({f"{__name__}.{name}": module for name, module in _MODULES.items()})

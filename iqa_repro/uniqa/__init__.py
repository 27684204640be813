"Former names of `iqa_repro.captions` and `iqa_repro.methods.uniqa`, kept for those who import them"

import sys

from iqa_repro.captions import captioners, describing, files, instructions, purification
from iqa_repro.methods.uniqa import adapter, contrastive, fitting, released_weights

_MODULES = {"captioners": captioners, "caption_files": files, "captioning": instructions, "describing": describing}
_MODULES |= {"purification": purification, "adapter": adapter, "contrastive": contrastive, "fitting": fitting}
_MODULES |= {"released_weights": released_weights}
sys.modules.update({f"{__name__}.{name}": module for name, module in _MODULES.items()})

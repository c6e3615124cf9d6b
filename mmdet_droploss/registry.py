"""Makes ``mmdet_droploss::droploss/mask_rcnn_r50_fpn_lvis.py`` a base that MMEngine understands.

MMEngine looks for a base with ``::`` in the packages of a list that names OpenMMLab's own only, and
builds what it finds there in the registries of that package's name. So this package is put on the
list, and gets registries. They are empty: what they do not hold is looked up in their parents.
These are mmdet's, where this package's parts are registered, as a config without ``::`` expects.

A config is read before its ``custom_imports`` are followed, so this module has to be imported
earlier. The tools of this package do it; docs/mim.md says how a config does it itself.
"""

import mmdet.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

SCOPE = "mmdet_droploss"

MODULE2PACKAGE.setdefault(SCOPE, SCOPE)

# A registry imports its own locations when it is asked for something, but not those of its parents.
_LOCATIONS = [
    SCOPE,
    "mmdet.datasets",
    "mmdet.engine",
    "mmdet.evaluation",
    "mmdet.models",
    "mmdet.visualization",
]

#: mmdet's name of each registry, and this package's registry below it.
REGISTRIES = {
    name: Registry(parent.name, parent=parent, scope=SCOPE, locations=_LOCATIONS)
    for name, parent in vars(mmdet.registry).items()
    if isinstance(parent, Registry) and parent.scope == "mmdet"
}

"""EasyCache: runtime-adaptive caching (arXiv 2507.02860).

The ratio of the output's change to the input's is measured at computed steps. From it and the change of the input, the
relative change of the output is estimated; while the sum of the estimates since the last computed step is below a
threshold, the last difference of output and input is added to the input again. The paper measures and caches around the
whole model; here both are the stream before and after all branches, where the executor caches.
"""

from dataclasses import dataclass

from harmonica.methods import RuledMethod
from harmonica.plan import Rule


@dataclass(frozen=True, kw_only=True)
class EasyCache(RuledMethod):
    title = "EasyCache"

    def rules(self, task):
        return lambda threshold: (Rule("rate", threshold), {})

"""Caching plans: what is computed and what is reused, at every step and branch. Nothing here imports torch."""

from harmonica.plan.branches import BranchLayout
from harmonica.plan.costs import cache_bytes, macs, theoretical_speedup
from harmonica.plan.match import count_at, macs_at, match_macs
from harmonica.plan.origin import Origin, Protocol
from harmonica.plan.plan import Plan, all_compute
from harmonica.plan.program import (
    COMPUTE,
    FORECAST,
    FORECASTS,
    OUTPUT_FORECAST,
    REUSE,
    SPAN_DELTA,
    SPAN_FORECAST,
    SPAN_OUTPUT,
    SPAN_TIMED,
)
from harmonica.plan.router import LIMIT, Router, sigmoid
from harmonica.plan.rule import Rule

__all__ = [
    "COMPUTE", "FORECAST", "FORECASTS", "LIMIT", "OUTPUT_FORECAST", "REUSE", "SPAN_DELTA", "SPAN_FORECAST",
    "SPAN_OUTPUT", "SPAN_TIMED", "BranchLayout", "Origin", "Plan", "Protocol", "Router", "Rule", "all_compute",
    "cache_bytes", "count_at", "macs", "macs_at", "match_macs", "sigmoid", "theoretical_speedup",
]  # fmt: skip

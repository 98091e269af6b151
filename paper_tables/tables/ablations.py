"""Ablations: one choice of HarmoniCa at a time, one block per study."""

from paper_tables.layout import study

TABLE = study("Ablations")

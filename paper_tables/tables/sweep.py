"""The sweep behind the paper's figure of IS and FID against speed-up: Learning-to-Cache and HarmoniCa over a range of
CURs, at one number of steps."""

from paper_tables.layout import study

TABLE = study("Sweep")

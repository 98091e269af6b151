"""Transfer: HarmoniCa's plans under samplers and step counts they were not trained for."""

from paper_tables.layout import of_captions

TABLE = of_captions("Transfer")

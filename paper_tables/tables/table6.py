"""Table 6: what training a router costs."""

from paper_tables.costs import CostTable

TABLE = CostTable("Table 6: training cost")

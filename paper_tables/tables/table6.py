"""Table 6: router training costs."""

from paper_tables.costs import CostTable

TABLE = CostTable("Table 6: training cost")

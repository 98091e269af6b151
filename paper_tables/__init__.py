"""The paper's tables and figures: published numbers, and the code that lays measured ones out beside them."""

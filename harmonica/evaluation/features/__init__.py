"""Feature networks: images to what the metrics compare. A table names the network it used."""

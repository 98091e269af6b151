"""Feature networks: from images to features. A table names the network it used."""

"""Generated images and their measurement: metrics, latency, drift."""

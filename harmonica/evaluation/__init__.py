"""Generated images and what is measured on them: metrics, latency, drift."""

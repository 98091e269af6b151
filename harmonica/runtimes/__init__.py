"""Other ways to run a plan than step by step in Python: compiled, as a CUDA graph, inside a diffusers pipeline."""

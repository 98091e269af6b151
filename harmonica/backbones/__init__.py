"""Diffusion transformers as a stream that passes named residual branches. One file a family."""

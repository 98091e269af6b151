"""The transformers as branches on a residual stream; one file per model."""

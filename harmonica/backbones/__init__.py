"""The transformers, branch by branch. A file reads like the paper of its model."""

"""rwtrain: pretraining of knowledge-enhanced contrastive multimodal transformers."""

__version__ = "0.1.0"

"""lorasweep: learning-rate sweeps and honest comparisons of LoRA, LoRA+, MoRA and full fine-tuning."""

__version__ = "0.1.0"

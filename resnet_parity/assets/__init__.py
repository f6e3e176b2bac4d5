"""Data that ships with the package."""

from pathlib import Path

DIGITS = Path(__file__).parent / "digits_resnet20.safetensors"
"""A ResNet-20 trained on scikit-learn's handwritten digits by `examples/train_digits.py`: 8x8
pixels, one channel, ten classes; float32, with its spec, preprocessing and labels."""

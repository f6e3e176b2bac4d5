"""Graphs in ONNX files."""

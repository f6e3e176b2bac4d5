"""Graphs of ONNX files held against those that are written here of a spec."""

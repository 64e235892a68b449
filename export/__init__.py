"""Classifiers as ONNX files.

float32  the graph
int8     8-bit weights, by processor
parity   what the graph answers
"""

"""Classifiers as ONNX files.

arguments       what to export, where to, and for which processor
float32         the graph
int8            8-bit weights, by processor
parity          what a graph answers, and the data it is checked on
gate            what int8 may change
checked_export  both files, written and checked
"""

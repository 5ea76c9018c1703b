"""Core ML ML Programs: `.mlpackage` and the compiled `.mlmodelc`."""

"""From modules to ONNX graphs, and to other precisions."""

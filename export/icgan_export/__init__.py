"""Export side of icgan: torch weights to fast, verified ONNX graphs, TensorRT plans, Triton repositories."""

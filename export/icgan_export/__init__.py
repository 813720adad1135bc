"""Export side of icgan: torch weights to fast, verified ONNX graphs, TensorRT engines and Triton repositories."""

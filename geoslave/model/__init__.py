"""Models: packages, prediction and training. The only home of torch and onnxruntime."""

"""Networks that others bring, as TorchScript or ONNX with a manifest."""

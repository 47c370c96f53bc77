"""The local embedding model: built once from published weights, run with onnxruntime."""

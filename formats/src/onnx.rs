//! The 2-bit codes of ONNX `MatMulNBits`.

//! The packed uint8 layout of Hugging Face BitNet checkpoints (safetensors).

//! The block codecs of ggml and its forks: bytes of a tensor to trits and scales.

//! The plug-in in a ggml of our own (`fake`).

mod border;
mod left;
mod memory;
mod nodes;
mod together;
mod values;

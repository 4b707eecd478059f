//! What miri interprets: every kernel that it can, over few and small shapes.
//!
//! Miri checks each load and store against its allocation, uninitialised memory,
//! alignment, aliasing (`&mut`) and data races. It is some thousand times slower
//! than a CPU, so these are tests of their own; they run natively as well.
//! `.ci/sanitize miri` has the commands. Under miri the CPU features are those
//! the build was told of, so a run for each instruction set shows the table
//! other rows: [`backends::the_build_has_what_was_asked_for`] guards against
//! a run that silently interprets the scalar kernels only.

mod backends;
mod codec;
mod layers;
mod products;

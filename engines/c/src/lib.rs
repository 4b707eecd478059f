//! The C interface of `tritgemm`. Its documentation is `include/tritgemm.h`,
//! which is made of the comments in these files; `include/tritgemm.hpp` wraps
//! it for C++.
//!
//! | module | what it is |
//! |---|---|
//! | `status` | status codes, the last error of a thread, the wall against panics |
//! | `buffer` | pointers of the caller to slices: length, alignment, overlap |
//! | `handle` | opaque handles to and from pointers |
//! | `isa`, `codec`, `quant` | functions without handles |
//! | `product`, `outputs` | what products do with the caller's rows |
//! | `matrix`, `panels`, `linear`, `prepared`, `panel_file`, `model_file`, `workspace`, `team`, `experts` | their handles |
//! | `parallel_for` | the caller's threads behind a callback |
//!
//! # What every function is owed
//!
//! The `SAFETY` comments cite these preconditions; nothing else is assumed.
//!
//! 1. **Buffers.** A pointer that is not null is valid for as many elements as
//!    its length argument says, for reads or, where it is not `const`, for
//!    writes, at any alignment. Nobody writes to an input, and nobody else
//!    reads or writes an output, while the call runs: elements of its rows,
//!    where it has a stride.
//! 2. **Handles.** A handle that is not null came from this library, is of the
//!    type its function takes, and was not destroyed. It is not destroyed
//!    while a call uses it.
//! 3. **Out pointers.** A pointer to a single result that is not null is valid
//!    for a write of it, at any alignment.
//! 4. **Strings.** A string that is not null ends with a zero byte.
//! 5. **Lasting memory.** What `_from_memory` is given stays valid and
//!    unchanged until every handle that came of it is destroyed.
//! 6. **Mapped files.** The file of `_map`, and the files of `_open`, are neither
//!    changed nor truncated for as long.
//! 7. **Callbacks.** A parallel-for callback may be called with its context
//!    from any thread that runs products; the workspace outlives every call
//!    of a work function that it handed out.
// The comments are the C header's: what stands in brackets there is a shape.
#![allow(rustdoc::broken_intra_doc_links)]
#![allow(clippy::missing_safety_doc, clippy::too_many_arguments)]
// Prefixes keep the constants of C apart.
#![allow(clippy::enum_variant_names)]

mod buffer;
mod codec;
mod experts;
mod handle;
mod isa;
mod linear;
mod matrix;
mod model;
mod model_file;
mod outputs;
mod panel_file;
mod panels;
mod parallel_for;
mod prepared;
mod product;
mod quant;
mod status;
mod team;
mod workspace;

pub use codec::*;
pub use experts::*;
pub use isa::*;
pub use linear::*;
pub use matrix::*;
pub use model::*;
pub use model_file::*;
pub use outputs::{Output, tritgemm_linear_forward_many};
pub use panel_file::*;
pub use panels::*;
pub use parallel_for::{ParallelFor, Work};
pub use prepared::*;
pub use product::Float;
pub use quant::*;
pub use status::*;
pub use team::*;
pub use workspace::*;

//! Ternary matrices of ggml's, packed once.

use crate::process::Mappings;
use crate::stats::{Left, Stats};
use crate::sys::{Ggml, Tensor, WEIGHTS};
use core::ops::Range;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tritgemm::{Experts, Linear, Workspace};
use tritgemm_formats::FormatError;
use tritgemm_formats::ggml::TernaryType;

/// A matrix or a stack of them, packed.
pub enum Packed {
    Matrix(Linear),
    Experts(Experts),
}

impl Packed {
    pub fn bytes(&self) -> usize {
        let bytes = |layer: &Linear| layer.panels().as_bytes().len();
        match self {
            Packed::Matrix(layer) => bytes(layer),
            Packed::Experts(experts) => experts.layers().iter().map(bytes).sum(),
        }
    }
}

/// The weights of a product, where ggml has them.
#[derive(Clone, Copy)]
pub struct Weights {
    ty: TernaryType,
    cols: usize,
    rows: usize,
    /// Matrices of a stack of experts; `None` of a single matrix.
    experts: Option<usize>,
    data: *const u8,
}

/// Weights: where they are, what they are, and what tells them from others that were there
/// before. Those that differ in other bytes alone are taken for the same, so that nobody may
/// change some weights of a matrix while a stream lives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    data: usize,
    what: (TernaryType, [usize; 3]),
    /// Bytes at the start, in the middle and at the end. Those at the start are the same of two
    /// shapes of one memory.
    print: [[u8; PRINTED]; 3],
}

/// Bytes of a fingerprint at each place; zeros follow where there are fewer.
const PRINTED: usize = 128;

/// Where the bytes of a fingerprint are in so many.
fn printed(bytes: usize) -> [Range<usize>; 3] {
    let len = bytes.min(PRINTED);
    [0, (bytes - len) / 2, bytes - len].map(|start| start..start + len)
}

impl Weights {
    /// Of a tensor whose bytes lie as its type says, one row after the other. `None` of any
    /// other.
    ///
    /// # Safety
    /// A tensor of ggml's.
    pub unsafe fn of(tensor: &Tensor, types: &[TernaryType], stack: bool) -> Option<Self> {
        let ty = *types.iter().find(|ty| ty.id() as i32 == tensor.ty)?;
        let [cols, rows, experts, batch] = tensor.ne.map(|n| usize::try_from(n).unwrap_or(0));
        let row = ty.row_bytes(cols)?;
        let matrix = row.checked_mul(rows)?;
        let strides = [ty.block_bytes(), row, matrix, matrix.checked_mul(experts)?];
        let plain = tensor.nb == strides && batch == 1 && strides[3] > 0 && (stack || experts == 1);
        (plain && !tensor.data.is_null()).then_some(Self {
            ty,
            cols,
            rows,
            experts: stack.then_some(experts),
            data: tensor.data,
        })
    }

    /// What ggml has them as.
    pub fn ty(&self) -> TernaryType {
        self.ty
    }

    /// K.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// M.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn matrix_bytes(&self) -> usize {
        self.rows * self.cols / self.ty.block() * self.ty.block_bytes()
    }

    /// # Safety
    /// The weights are in memory, and nobody changes them while the bytes are borrowed.
    pub unsafe fn bytes<'a>(&self) -> &'a [u8] {
        let len = self.matrix_bytes() * self.experts.unwrap_or(1);
        // SAFETY: as many as the strides of the tensor say, which the caller vouches for.
        unsafe { core::slice::from_raw_parts(self.data, len) }
    }

    /// What they are, wherever.
    fn what(&self) -> (TernaryType, [usize; 3]) {
        (self.ty, [self.cols, self.rows, self.experts.unwrap_or(0)])
    }

    /// Whether they are those of `identity`. Every graph asks it of every matrix, so that
    /// nothing is copied.
    ///
    /// # Safety
    /// As [`Self::bytes`].
    pub unsafe fn are(&self, identity: &Identity) -> bool {
        // SAFETY: the caller's promise.
        let bytes = unsafe { self.bytes() };
        let places = printed(bytes.len()).into_iter();
        let mut prints = identity.print.iter().zip(places);
        identity.data == self.data as usize
            && identity.what == self.what()
            && prints.all(|(print, place)| print[..place.len()] == bytes[place])
    }

    /// # Safety
    /// As [`Self::bytes`].
    pub unsafe fn identity(&self) -> Identity {
        // SAFETY: the caller's promise.
        let bytes = unsafe { self.bytes() };
        let mut print = [[0; PRINTED]; 3];
        for (print, place) in print.iter_mut().zip(printed(bytes.len())) {
            print[..place.len()].copy_from_slice(&bytes[place]);
        }
        Identity {
            data: self.data as usize,
            what: self.what(),
            print,
        }
    }

    /// # Errors
    /// If a weight is not ternary, a scale is not finite, or memory runs out.
    ///
    /// # Safety
    /// As [`Self::bytes`].
    pub unsafe fn pack(&self, ws: &Workspace) -> Result<Packed, FormatError> {
        // SAFETY: the caller's promise.
        let bytes = unsafe { self.bytes() };
        let layer = |bytes: &[u8]| self.ty.linear(bytes, self.rows, self.cols, "", ws);
        if self.experts.is_none() {
            return layer(bytes).map(Packed::Matrix);
        }
        let matrices = || bytes.chunks_exact(self.matrix_bytes());
        let mut layers = matrices().map(layer).collect::<Result<Vec<_>, _>>()?;
        // Experts have their scales alike. Where one has the same throughout and another has
        // not, all keep those of their blocks.
        if layers
            .iter()
            .any(|layer| layer.group() != layers[0].group())
        {
            for (layer, bytes) in layers.iter_mut().zip(matrices()) {
                let matrix = self.ty.decode(bytes, self.rows, self.cols, "")?;
                *layer = Linear::new(&matrix).map_err(|source| FormatError::Matrix {
                    tensor: String::new(),
                    source,
                })?;
            }
        }
        Ok(Packed::Experts(
            Experts::new(layers).expect("one shape and one group"),
        ))
    }
}

/// Whether a tensor is in a buffer of weights that is plain memory.
///
/// # Safety
/// A tensor of that ggml's, with the buffer that it says or none.
pub unsafe fn in_weights(ggml: &Ggml, tensor: &Tensor) -> bool {
    let buffer = tensor.buffer;
    // SAFETY: a buffer of ggml's, by the caller's promise.
    !buffer.is_null()
        && unsafe {
            (ggml.ggml_backend_buffer_get_usage)(buffer) == WEIGHTS
                && (ggml.ggml_backend_buft_is_host)((ggml.ggml_backend_buffer_get_type)(buffer))
        }
}

/// Something of weights, by their address.
struct Places<T>(HashMap<usize, Vec<(Identity, T)>>);

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Places<T> {
    /// # Safety
    /// Weights in memory, that nobody changes meanwhile.
    unsafe fn get(&self, weights: &Weights) -> Option<&T> {
        let here = self.0.get(&(weights.data as usize))?;
        // SAFETY: the caller's promise.
        let same = here.iter().find(|(it, _)| unsafe { weights.are(it) });
        same.map(|(_, value)| value)
    }

    /// Weights of another start that were at the address are gone, and so are others of that
    /// shape. Those of another shape are a part of these, or these of them.
    fn insert(&mut self, identity: Identity, value: T) {
        let here = self.0.entry(identity.data).or_default();
        here.retain(|(it, _)| it.print[0] == identity.print[0] && it.what != identity.what);
        here.push((identity, value));
    }
}

/// What a stream has packed, or why it has not.
#[derive(Default)]
pub struct Layers(Places<Result<Arc<Packed>, Left>>);

impl Layers {
    /// What is known of weights.
    ///
    /// # Safety
    /// As [`Weights::bytes`].
    pub unsafe fn get(&self, weights: &Weights) -> Option<Result<Arc<Packed>, Left>> {
        // SAFETY: the caller's promise.
        unsafe { self.0.get(weights) }.cloned()
    }

    pub fn insert(&mut self, identity: Identity, packed: Result<Arc<Packed>, Left>) {
        self.0.insert(identity, packed);
    }

    pub fn clear(&mut self) {
        self.0 = Places::default();
    }
}

/// What the streams of the process share. Their [`Layers`] keep it: what was packed goes with
/// the last stream that used it.
#[derive(Default)]
pub struct Shared(Places<Weak<Packed>>);

impl Shared {
    /// # Safety
    /// As [`Weights::bytes`].
    pub unsafe fn get(&self, weights: &Weights) -> Option<Arc<Packed>> {
        // SAFETY: the caller's promise.
        unsafe { self.0.get(weights) }?.upgrade()
    }

    /// How many there are of somebody's.
    #[cfg(test)]
    pub fn alive(&self) -> usize {
        let all = self.0.0.values().flatten();
        all.filter(|(_, packed)| packed.strong_count() > 0).count()
    }

    pub fn insert(&mut self, identity: Identity, packed: &Arc<Packed>) {
        // Entries whose layers are gone are memory of nobody's.
        self.0.0.retain(|_, here| {
            here.retain(|(_, packed)| packed.strong_count() > 0);
            !here.is_empty()
        });
        self.0.insert(identity, Arc::downgrade(packed));
    }
}

/// Packs one of the weights that a graph needs, and gives the memory of a mapped file back at
/// once, so that no more than one matrix is there twice.
///
/// # Errors
/// Why they are left to ggml.
///
/// # Safety
/// As [`Weights::bytes`].
pub unsafe fn pack(
    weights: &Weights,
    ws: &Workspace,
    mappings: &Mappings,
    stats: &Stats,
) -> Result<Arc<Packed>, Left> {
    // SAFETY: the caller's promise.
    let (packed, bytes) = unsafe { (weights.pack(ws), weights.bytes()) };
    match packed {
        Ok(packed) => {
            // Fingerprints are read again at every graph, and one page that is read then would
            // bring many around it back.
            for pair in printed(bytes.len()).windows(2) {
                let between = bytes.get(pair[0].end..pair[1].start);
                mappings.release(between.unwrap_or_default());
            }
            stats.packed(packed.bytes());
            Ok(Arc::new(packed))
        }
        Err(FormatError::NotTernary { .. } | FormatError::Scale { .. }) => Err(Left::NotTernary),
        Err(_) => Err(Left::Memory),
    }
}

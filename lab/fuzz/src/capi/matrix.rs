//! Matrices: by trits, by packed bytes, by quantising.

use super::World;
use super::call::{Call, Slip, Slot};
use super::handle::{Kept, keep};
use super::shape::Shape;
use crate::codec::Trits;
use crate::fill::{Fill, Style};
use arbitrary::Arbitrary;
use std::ptr::null;
use tritgemm::codec::Mode;
use tritgemm::{Granularity, GroupSize, MatrixError, Scales, TernaryMatrix, codec};
use tritgemm_capi as c;
use tritgemm_capi::Status;

/// Granularities, and two that are none.
const KINDS: [i32; 7] = [1, 2, 64, 128, 256, 3, -64];

/// The number of a granularity, and what it stands for.
pub fn kind(which: u8, call: &mut Call) -> (i32, Option<Granularity>) {
    let number = KINDS[usize::from(which) % KINDS.len()];
    let granularity = match number {
        1 => Some(Granularity::PerTensor),
        2 => Some(Granularity::PerRow),
        64 => Some(Granularity::PerGroup(GroupSize::G64)),
        128 => Some(Granularity::PerGroup(GroupSize::G128)),
        256 => Some(Granularity::PerGroup(GroupSize::G256)),
        _ => {
            let text = format!("granularity {number}, expected a tritgemm_granularity");
            call.wrong(Status::TritgemmInvalidArgument, text);
            None
        }
    };
    (number, granularity)
}

/// The scales of values and a granularity, if it can have as many.
pub fn scales(granularity: Option<Granularity>, values: &[f32], call: &mut Call) -> Option<Scales> {
    match (granularity?, values) {
        (Granularity::PerTensor, &[scale]) => Some(Scales::per_tensor(scale)),
        (Granularity::PerTensor, _) => {
            let text = format!("`scales` has length {}, expected 1", values.len());
            call.wrong(Status::TritgemmInvalidSize, text);
            None
        }
        (Granularity::PerRow, _) => Some(Scales::per_row(values.to_vec())),
        (Granularity::PerGroup(size), _) => Some(Scales::per_group(size, values.to_vec())),
    }
}

/// A matrix to be made.
#[derive(Arbitrary, Debug)]
pub struct Make {
    by: By,
    kind: u8,
    scales: (Fill, Style),
    /// Rows and columns that the call is told of instead.
    claim: Option<(usize, usize)>,
    at: [u8; 2],
    slip: Option<Slip>,
}

#[derive(Arbitrary, Debug)]
enum By {
    Trits(Trits),
    Packed(Trits),
    Bytes(Fill),
    Weights(Fill, Style),
}

impl Make {
    /// Makes it.
    pub fn run(&self, world: &mut World, shape: Shape) {
        let Shape { rows, cols } = shape;
        let (told_rows, told_cols) = self.claim.unwrap_or((rows, cols));
        let mut call = Call::new(self.slip);
        let mut slot = Slot::new();
        let model = match &self.by {
            By::Weights(fill, style) => {
                let weights = fill.floats(rows * cols, *style);
                let weights = call.buffer("weights", weights, self.at[0]);
                let (kind, granularity) = kind(self.kind, &mut call);
                let (ptr, len) = (weights.ptr(), weights.len());
                let out = call.slot(&mut slot);
                // SAFETY: buffers with their lengths, an out pointer.
                let status = unsafe {
                    c::tritgemm_matrix_quantize(ptr, len, told_rows, told_cols, kind, out)
                };
                call.check(status, || {
                    let granularity = granularity.expect("a granularity");
                    TernaryMatrix::quantize(weights.before(), told_rows, told_cols, granularity)
                })
            }
            By::Trits(trits) => {
                let trits = trits.values(rows * cols);
                let trits = call.buffer("trits", trits, self.at[0]);
                self.scaled(call, shape, &mut slot, |[rows, cols], kind, (s, n), out| {
                    let (ptr, len) = (trits.ptr(), trits.len());
                    // SAFETY: buffers with their lengths, an out pointer.
                    let status = unsafe {
                        c::tritgemm_matrix_from_trits(ptr, len, rows, cols, kind, s, n, out)
                    };
                    let trits = &trits;
                    (status, move |scales| {
                        TernaryMatrix::from_trits(trits.before(), rows, cols, scales)
                    })
                })
            }
            By::Packed(_) | By::Bytes(_) => {
                let packed = self.packed(shape);
                let packed = call.buffer("packed", packed, self.at[0]);
                self.scaled(call, shape, &mut slot, |[rows, cols], kind, (s, n), out| {
                    let (ptr, len) = (packed.ptr(), packed.len());
                    // SAFETY: buffers with their lengths, an out pointer.
                    let status = unsafe {
                        c::tritgemm_matrix_from_packed(ptr, len, rows, cols, kind, s, n, out)
                    };
                    let packed = &packed;
                    (status, move |scales| {
                        TernaryMatrix::from_packed(packed.before().to_vec(), rows, cols, scales)
                    })
                })
            }
        };
        let Some(model) = model else {
            slot.unmade();
            return;
        };
        let made = Kept::new(
            slot.made(),
            c::tritgemm_matrix_destroy,
            model,
            &Default::default(),
        );
        check(&made);
        keep(&mut world.matrices, made);
    }

    fn packed(&self, Shape { rows, cols }: Shape) -> Vec<u8> {
        let len = rows * cols.div_ceil(4);
        match &self.by {
            By::Bytes(fill) => fill.bytes(len),
            By::Packed(trits) => {
                let (trits, mut packed) = (trits.values(rows * cols), vec![0; len]);
                let lenient = Mode::Lenient;
                codec::encode(&trits, rows, cols, &mut packed, lenient).expect("lenient");
                packed
            }
            _ => Vec::new(),
        }
    }

    /// With scales.
    fn scaled<W>(
        &self,
        mut call: Call,
        Shape { rows, cols }: Shape,
        slot: &mut Slot<c::Matrix>,
        run: impl FnOnce([usize; 2], i32, (*const f32, usize), *mut *mut c::Matrix) -> (Status, W),
    ) -> Option<TernaryMatrix>
    where
        W: FnOnce(Scales) -> Result<TernaryMatrix, MatrixError>,
    {
        let (number, granularity) = kind(self.kind, &mut call);
        let count = granularity.and_then(|g| g.scales(rows, cols)).unwrap_or(1);
        let values = self.scales.0.floats(count, self.scales.1);
        let values = call.buffer("scales", values, self.at[1]);
        let scales = match call.is_right() {
            true => scales(granularity, values.before(), &mut call),
            false => None,
        };
        let out = call.slot(slot);
        let (rows, cols) = self.claim.unwrap_or((rows, cols));
        let (status, want) = run([rows, cols], number, (values.ptr(), values.len()), out);
        call.check(status, || want(scales.expect("scales")))
    }
}

/// What a matrix says of itself.
fn check(made: &Kept<c::Matrix, TernaryMatrix>) {
    let (handle, model) = (made.handle(), &made.model);
    let (mut bytes, mut len) = (null(), 0);
    let (mut number, mut scales, mut count) = (0, null(), 0);
    // SAFETY: a handle that lives, out pointers; what it lends lives as long.
    unsafe {
        let shape = [
            c::tritgemm_matrix_rows(handle),
            c::tritgemm_matrix_cols(handle),
        ];
        assert_eq!(shape, [model.rows(), model.cols()]);
        c::tritgemm_matrix_packed(handle, &mut bytes, &mut len);
        assert!(std::slice::from_raw_parts(bytes, len) == model.packed());
        c::tritgemm_matrix_scales(handle, &mut number, &mut scales, &mut count);
        let scales = std::slice::from_raw_parts(scales, count);
        let bits = |values: &[f32]| bytemuck::cast_slice::<f32, u32>(values).to_vec();
        assert_eq!(bits(scales), bits(model.scales().values()));
    }
    assert_eq!(number, self::number(model.scales().granularity()));
}

/// The number of a granularity.
pub fn number(granularity: Granularity) -> i32 {
    match granularity {
        Granularity::PerTensor => 1,
        Granularity::PerRow => 2,
        Granularity::PerGroup(size) => size.len() as i32,
    }
}

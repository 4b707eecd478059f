//! The codec and the quantisers.

use super::call::{Call, Slip};
use super::matrix::kind;
use super::shape::Shape;
use crate::codec::Trits;
use crate::fill::{Fill, Style};
use arbitrary::Arbitrary;
use tritgemm::codec;
use tritgemm::codec::Mode;
use tritgemm::quant::{absmean_into, quantize_activations_into, ternarize_into};
use tritgemm_capi as c;
use tritgemm_capi::Status;

const BYTE: u8 = 0xa5;
const TRIT: i8 = 77;
const FLOAT: f32 = 7.5;

/// One conversion of a matrix.
#[derive(Arbitrary, Debug)]
pub struct Convert {
    what: What,
    /// Rows and columns that the call is told of instead.
    claim: Option<(usize, usize)>,
    at: [u8; 3],
    slip: Option<Slip>,
}

#[derive(Arbitrary, Debug)]
enum What {
    Pack(Trits, u8),
    Unpack(Fill, u8),
    UnpackF32(Fill, (Fill, Style), u8),
    Absmean(Fill, Style, u8),
    Ternarize(Fill, Style, (Fill, Style), u8),
    Activations(Fill, Style),
}

fn mode(which: u8, call: &mut Call) -> (i32, Mode) {
    match which % 8 {
        0 | 1 | 2 => (0, Mode::Strict),
        3 | 4 | 5 => (1, Mode::Lenient),
        which => {
            let number = if which == 6 { 2 } else { i32::MIN };
            let text = format!("mode {number}, expected a tritgemm_mode");
            call.wrong(Status::TritgemmInvalidArgument, text);
            (number, Mode::Strict)
        }
    }
}

impl Convert {
    /// Runs it.
    pub fn run(&self, shape: Shape) {
        match &self.what {
            What::Pack(trits, mode) => self.pack(shape, trits, *mode),
            What::Unpack(bytes, mode) => self.unpack(shape, bytes, *mode),
            What::UnpackF32(bytes, scales, mode) => self.unpack_f32(shape, bytes, scales, *mode),
            What::Absmean(fill, style, kind) => self.absmean(shape, (fill, *style), *kind),
            What::Ternarize(fill, style, scales, kind) => {
                self.ternarize(shape, (fill, *style), scales, *kind);
            }
            What::Activations(fill, style) => self.activations(shape, (fill, *style)),
        }
    }

    fn told(&self, shape: Shape) -> (usize, usize) {
        self.claim.unwrap_or((shape.rows, shape.cols))
    }

    fn pack(&self, shape: Shape, trits: &Trits, mode: u8) {
        let ((rows, cols), mut call) = (self.told(shape), Call::new(self.slip));
        let trits = trits.values(shape.rows * shape.cols);
        let trits = call.buffer("trits", trits, self.at[0]);
        let packed = vec![BYTE; shape.rows * shape.cols.div_ceil(4)];
        let mut packed = call.buffer("packed", packed, self.at[1]);
        let (number, mode) = self::mode(mode, &mut call);
        let (from, len) = (trits.ptr(), trits.len());
        let (to, to_len) = (packed.ptr_mut(), packed.len());
        // SAFETY: buffers with their lengths.
        let status = unsafe { c::tritgemm_pack(from, len, rows, cols, to, to_len, number) };
        let mut want = packed.before().to_vec();
        call.check(status, || {
            codec::encode(trits.before(), rows, cols, &mut want, mode)
        });
        // Bytes are written in place, up to an error too.
        packed.holds(&want);
    }

    fn unpack(&self, shape: Shape, bytes: &Fill, mode: u8) {
        let ((rows, cols), mut call) = (self.told(shape), Call::new(self.slip));
        let packed = bytes.bytes(shape.rows * shape.cols.div_ceil(4));
        let packed = call.buffer("packed", packed, self.at[0]);
        let trits = vec![TRIT; shape.rows * shape.cols];
        let mut trits = call.buffer("trits", trits, self.at[1]);
        let (number, mode) = self::mode(mode, &mut call);
        let (from, len) = (packed.ptr(), packed.len());
        let (to, to_len) = (trits.ptr_mut(), trits.len());
        // SAFETY: buffers with their lengths.
        let status = unsafe { c::tritgemm_unpack(from, len, rows, cols, to, to_len, number) };
        let mut want = trits.before().to_vec();
        call.check(status, || {
            codec::decode(packed.before(), rows, cols, &mut want, mode)
        });
        trits.holds(&want);
    }

    fn unpack_f32(&self, shape: Shape, bytes: &Fill, scales: &(Fill, Style), mode: u8) {
        let ((rows, cols), mut call) = (self.told(shape), Call::new(self.slip));
        let packed = bytes.bytes(shape.rows * shape.cols.div_ceil(4));
        let packed = call.buffer("packed", packed, self.at[0]);
        let scales = call.buffer("scales", scales.0.floats(shape.rows, scales.1), self.at[1]);
        let weights = vec![FLOAT; shape.rows * shape.cols];
        let mut weights = call.buffer("weights", weights, self.at[2]);
        let (number, mode) = self::mode(mode, &mut call);
        let (from, len) = (packed.ptr(), packed.len());
        let (to, to_len) = (weights.ptr_mut(), weights.len());
        let (s, s_len) = (scales.ptr(), scales.len());
        // SAFETY: buffers with their lengths.
        let status =
            unsafe { c::tritgemm_unpack_f32(from, len, rows, cols, s, s_len, to, to_len, number) };
        let mut want = weights.before().to_vec();
        let done = call.check(status, || {
            let (packed, scales) = (packed.before(), scales.before());
            codec::decode_f32(packed, rows, cols, scales, &mut want, mode)
        });
        if done.is_some() {
            weights.holds(&want);
        }
    }

    fn absmean(&self, shape: Shape, (fill, style): (&Fill, Style), which: u8) {
        let ((rows, cols), mut call) = (self.told(shape), Call::new(self.slip));
        let weights = fill.floats(shape.rows * shape.cols, style);
        let weights = call.buffer("weights", weights, self.at[0]);
        let (number, granularity) = kind(which, &mut call);
        let count = granularity.and_then(|g| g.scales(shape.rows, shape.cols));
        let scales = vec![FLOAT; count.unwrap_or(1)];
        let mut scales = call.buffer("scales", scales, self.at[1]);
        let (from, len) = (weights.ptr(), weights.len());
        let (to, to_len) = (scales.ptr_mut(), scales.len());
        // SAFETY: buffers with their lengths.
        let status = unsafe { c::tritgemm_absmean(from, len, rows, cols, number, to, to_len) };
        let mut want = scales.before().to_vec();
        let done = call.check(status, || {
            let granularity = granularity.expect("a granularity");
            absmean_into(weights.before(), rows, cols, granularity, &mut want)
        });
        if done.is_some() {
            scales.holds(&want);
        }
    }

    fn ternarize(
        &self,
        shape: Shape,
        (fill, style): (&Fill, Style),
        scales: &(Fill, Style),
        which: u8,
    ) {
        let ((rows, cols), mut call) = (self.told(shape), Call::new(self.slip));
        let weights = fill.floats(shape.rows * shape.cols, style);
        let weights = call.buffer("weights", weights, self.at[0]);
        let (number, granularity) = kind(which, &mut call);
        let count = granularity.and_then(|g| g.scales(shape.rows, shape.cols));
        let scales = scales.0.floats(count.unwrap_or(1), scales.1);
        let scales = call.buffer("scales", scales, self.at[1]);
        let trits = vec![TRIT; shape.rows * shape.cols];
        let mut trits = call.buffer("trits", trits, self.at[2]);
        let (from, len) = (weights.ptr(), weights.len());
        let (to, to_len) = (trits.ptr_mut(), trits.len());
        let (s, s_len) = (scales.ptr(), scales.len());
        // SAFETY: buffers with their lengths.
        let status =
            unsafe { c::tritgemm_ternarize(from, len, rows, cols, number, s, s_len, to, to_len) };
        let mut want = trits.before().to_vec();
        let done = call.check(status, || {
            let granularity = granularity.expect("a granularity");
            let (weights, scales) = (weights.before(), scales.before());
            ternarize_into(weights, rows, cols, granularity, scales, &mut want)
        });
        if done.is_some() {
            trits.holds(&want);
        }
    }

    fn activations(&self, shape: Shape, (fill, style): (&Fill, Style)) {
        let ((tokens, features), mut call) = (self.told(shape), Call::new(self.slip));
        let x = fill.floats(shape.rows * shape.cols, style);
        let x = call.buffer("x", x, self.at[0]);
        let values = vec![TRIT; shape.rows * shape.cols];
        let mut values = call.buffer("values", values, self.at[1]);
        let scales = vec![FLOAT; shape.rows];
        let mut scales = call.buffer("token_scales", scales, self.at[2]);
        let (from, len) = (x.ptr(), x.len());
        let (to, to_len) = (values.ptr_mut(), values.len());
        let (s, s_len) = (scales.ptr_mut(), scales.len());
        // SAFETY: buffers with their lengths.
        let status = unsafe {
            c::tritgemm_quantize_activations(from, len, tokens, features, to, to_len, s, s_len)
        };
        let (mut want, mut want_scales) = (values.before().to_vec(), scales.before().to_vec());
        let done = call.check(status, || {
            let (q, scales) = (&mut want, &mut want_scales);
            quantize_activations_into(x.before(), tokens, features, q, scales)
        });
        if done.is_some() {
            values.holds(&want);
            scales.holds(&want_scales);
        }
    }
}

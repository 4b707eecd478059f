//! Products: activations, outputs and panels beside guard pages.

use bytemuck::Pod;
use half::{bf16, f16};
use tritgemm::{Linear, MatMut, MatRef, Options, Panels, PreparedActivations};
use tritgemm_testing::case::{Case, Expected, GRANULARITIES, Shape, assert_same};
use tritgemm_testing::floats::{Float, narrowed, widened};
use tritgemm_testing::guarded::{Guarded, Place};
use tritgemm_testing::{backends, bits, quick, ways, workspace};

/// Rows of a matrix in guarded memory, `gap` values between them.
struct Rows<T> {
    memory: Guarded<T>,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<T: Pod> Rows<T> {
    /// No gap follows the last row, so its end meets the guard.
    fn filled([rows, cols]: [usize; 2], gap: usize, place: Place) -> Self {
        let stride = cols + gap;
        let len = rows.checked_sub(1).map_or(0, |last| last * stride + cols);
        Self {
            memory: Guarded::filled(len, place),
            rows,
            cols,
            stride,
        }
    }

    fn new(dense: &[T], shape: [usize; 2], gap: usize, place: Place) -> Self {
        let mut rows = Self::filled(shape, gap, place);
        for row in 0..shape[0] {
            let (cols, start) = (rows.cols, row * rows.stride);
            rows.memory.get_mut()[start..][..cols].copy_from_slice(&dense[row * cols..][..cols]);
        }
        rows
    }

    fn view(&self) -> MatRef<'_, T> {
        MatRef::with_stride(self.memory.get(), self.rows, self.cols, self.stride).expect("a view")
    }

    fn view_mut(&mut self) -> MatMut<'_, T> {
        let Self { rows, cols, .. } = *self;
        MatMut::with_stride(self.memory.get_mut(), rows, cols, self.stride).expect("a view")
    }

    fn take(self, what: &dyn std::fmt::Debug) -> Vec<T> {
        let memory = self.memory.take(what);
        let row = |row: usize| &memory[row * self.stride..][..self.cols];
        (0..self.rows).flat_map(row).copied().collect()
    }
}

/// A product with everything the caller owns in guarded memory.
struct Beside<'a> {
    case: &'a Case,
    /// `case.layer` with its panels in guarded memory.
    layer: Linear,
    place: Place,
}

impl<'a> Beside<'a> {
    fn new(case: &'a Case, place: Place) -> Self {
        let panels = case.layer.panels();
        let (rows, cols) = (panels.rows(), panels.cols());
        let bytes = Guarded::new(panels.as_bytes(), place.of_operand(2)).leak();
        let panels = Panels::from_bytes(bytes, rows, cols).expect("panels");
        let bias = case.layer.bias().map(<[f32]>::to_vec);
        let layer = Linear::from_parts(panels, case.scales.clone(), bias).expect("a layer");
        Self { case, layer, place }
    }

    fn shape(&self) -> &Shape {
        &self.case.shape
    }

    fn x<T: Pod>(&self, dense: &[T]) -> Rows<T> {
        let Shape { k, n, gaps, .. } = *self.shape();
        Rows::new(dense, [n, k], gaps[0], self.place)
    }

    /// The output that `run` writes.
    fn y<T: Pod>(&self, what: &str, run: impl FnOnce(MatMut<'_, T>)) -> Vec<T> {
        let Shape { m, n, gaps, .. } = *self.shape();
        let mut y = Rows::filled([n, m], gaps[1], self.place.of_operand(1));
        run(y.view_mut());
        y.take(&what)
    }

    fn check(&self, options: &Options, expected: &Expected) {
        let ws = &mut workspace(options);
        let what = format!("{:?} {options:?} at {:?}", self.shape(), self.place);
        let (layer, panels) = (&self.layer, self.layer.panels());
        let (x_i8, x_f32) = (self.x(&self.case.x_i8), self.x(&self.case.x_f32));
        let y = self.y(&what, |y| panels.gemm_i8(x_i8.view(), y, ws).expect("fits"));
        assert_same("gemm_i8", &what, &y, &expected.integers);
        let y = self.y(&what, |y| {
            layer.forward_f32(x_f32.view(), y, ws).expect("fits")
        });
        assert_same("forward_f32", &what, &bits(&y), &expected.float);
        let y = self.y(&what, |y| {
            layer.forward_int8(x_f32.view(), y, ws).expect("fits")
        });
        let wanted = expected.quantized.as_ref().expect("finite");
        assert_same("forward_int8", &what, &bits(&y), wanted);
    }

    /// Prepared activations of every kind.
    fn check_prepared(&self, options: &Options, expected: &Expected) {
        let ws = &mut workspace(options);
        let what = format!("{:?} {options:?} at {:?}", self.shape(), self.place);
        let (x_i8, x_f32) = (self.x(&self.case.x_i8), self.x(&self.case.x_f32));
        let float = self.layer.prepare_f32(x_f32.view(), ws).expect("prepared");
        let quantized = self.layer.prepare_int8(x_f32.view(), ws).expect("prepared");
        let token_scales = vec![1.0; self.shape().n];
        let int8 = PreparedActivations::from_int8(x_i8.view(), token_scales, None, ws);
        let int8 = int8.expect("prepared");
        drop((x_i8, x_f32));
        let layer = &self.layer;
        let y = self.y(&what, |y| layer.forward_f32(&float, y, ws).expect("fits"));
        assert_same("float", &what, &bits(&y), &expected.float);
        let y = self.y(&what, |y| {
            layer.forward_int8(&quantized, y, ws).expect("fits")
        });
        let wanted = expected.quantized.as_ref().expect("finite");
        assert_same("quantized", &what, &bits(&y), wanted);
        let panels = self.layer.panels();
        let y = self.y(&what, |y| panels.gemm_i8(&int8, y, ws).expect("fits"));
        assert_same("int8", &what, &y, &expected.integers);
    }

    /// f16 or bf16 activations give what their values in f32 give.
    fn check_half<T: Float + Pod>(&self, options: &Options) {
        let ws = &mut workspace(options);
        let what = format!("{:?} {options:?} at {:?}", self.shape(), self.place);
        let x = &self.case.x_f32;
        let narrow = narrowed::<T>(x);
        let wide = widened(&narrow);
        let (narrow, wide) = (self.x(&narrow), self.x(&wide));
        let got = self.y(&what, |y| {
            self.layer.forward_int8(narrow.view(), y, ws).expect("fits")
        });
        let wanted = self.y(&what, |y| {
            self.layer.forward_int8(wide.view(), y, ws).expect("fits")
        });
        assert_same("half", &what, &bits(&got), &bits(&wanted));
    }
}

fn case([m, k, n]: [usize; 3], gaps: [usize; 2], granularity: usize) -> Case {
    Case::new(Shape {
        gaps,
        granularity,
        bias: m % 2 == 0,
        seed: (m * k + n) as u64,
        ..Shape::new(m, k, n)
    })
}

/// Every tail of K: of a byte, a unit of any kernel, a chunk, a block.
#[test]
fn every_tail_of_k() {
    let step = if quick() { 37 } else { 1 };
    for k in (0..=64).step_by(step).chain([239, 240, 241, 252, 479, 483]) {
        let case = case([66, k, 3], [0, 0], GRANULARITIES[k % 2]);
        let expected = case.expected();
        for place in Place::tight() {
            let beside = Beside::new(&case, place);
            ways().iter().for_each(|way| beside.check(way, &expected));
        }
    }
}

/// Every tail of M: of a vector of outputs, a panel, a tile of panels.
#[test]
fn every_tail_of_m() {
    let step = if quick() { 29 } else { 1 };
    for m in (0..=66).step_by(step).chain([127, 129, 192, 257, 320, 577]) {
        let case = case([m, 25, 2], [0, 0], GRANULARITIES[m % 2]);
        let expected = case.expected();
        for place in Place::tight() {
            let beside = Beside::new(&case, place);
            ways().iter().for_each(|way| beside.check(way, &expected));
        }
    }
}

/// Every tail of N: of a tile of tokens, of a column tile.
#[test]
fn every_tail_of_n() {
    let step = if quick() { 31 } else { 1 };
    for n in (0..=35).step_by(step).chain([63, 64, 65, 128, 130]) {
        let case = case([65, 13, n], [n % 2, n % 3], GRANULARITIES[n % 2]);
        let expected = case.expected();
        for place in Place::tight() {
            let beside = Beside::new(&case, place);
            ways().iter().for_each(|way| beside.check(way, &expected));
        }
    }
}

/// Groups cut K where no unit of a kernel ends.
#[test]
fn scales_by_group() {
    for granularity in [32, 64, 128, 256] {
        for k in [64, 65, 130, 300] {
            let case = case([70, k, 5], [1, 2], granularity);
            let expected = case.expected();
            for place in Place::tight() {
                let beside = Beside::new(&case, place);
                for way in &ways() {
                    beside.check(way, &expected);
                    beside.check_prepared(way, &expected);
                }
            }
        }
    }
}

#[test]
fn every_alignment() {
    let shapes = [[66, 29, 3], [130, 77, 34]];
    for shape in shapes.into_iter().take(if quick() { 1 } else { 2 }) {
        let case = case(shape, [0, 0], 2);
        let expected = case.expected();
        for place in Place::all() {
            let beside = Beside::new(&case, place);
            for way in &ways() {
                beside.check(way, &expected);
                beside.check_prepared(way, &expected);
            }
        }
    }
}

#[test]
fn every_float_type() {
    let case = case([66, 77, 3], [0, 0], 2);
    for place in Place::all() {
        let beside = Beside::new(&case, place);
        for backend in backends() {
            beside.check_half::<f16>(&Options::new().backend(backend));
            beside.check_half::<bf16>(&Options::new().backend(backend));
        }
    }
}

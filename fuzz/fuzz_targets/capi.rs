//! The C interface: arguments of any size at any alignment give the results and
//! the messages of the Rust interface, and nothing around outputs is written.
#![no_main]

use arbitrary::Arbitrary;
use half::{bf16, f16};
use libfuzzer_sys::fuzz_target;
use std::ffi::CStr;
use std::fmt::Display;
use std::ptr::{null, null_mut};
use tritgemm::{GroupSize, Linear, MatMut, PanelFile, Panels, Scales, TernaryMatrix, Verify};
use tritgemm::{MatRef, Workspace, codec};
use tritgemm_capi as c;
use tritgemm_capi::Status;
use tritgemm_fuzz::codec::{ModeChoice, Size, Trits};
use tritgemm_fuzz::common::{bits, view, view_mut};
use tritgemm_fuzz::fill::{Fill, Style};
use tritgemm_fuzz::memory::{Bytes, Memory};
use tritgemm_fuzz::panel_file::{derive, repair};

/// Granularities, and one that is none.
const GRANULARITIES: [i32; 6] = [1, 2, 64, 128, 256, 3];

#[derive(Arbitrary, Debug)]
struct Input {
    size: Size,
    /// Added to lengths, to shapes: mostly nothing.
    off: Option<(u8, i8)>,
    trits: Trits,
    mode: ModeChoice,
    granularity: u8,
    scales: (Fill, Style),
    bias: Option<(Fill, Style)>,
    tokens: u8,
    x: (Fill, Style),
    strides: [u8; 2],
    /// Bytes after an aligned address.
    at: [u8; 4],
    file: Option<(Fill, u16, bool)>,
}

impl Input {
    fn len(&self, which: u8, len: usize) -> usize {
        match self.off {
            Some((of, by)) if of % 8 == which => len.saturating_add_signed(by.into()),
            _ => len,
        }
    }
}

fuzz_target!(|input: Input| {
    codes(&input);
    file(&input);
    let Some((matrix, handle)) = matrix(&input) else {
        return;
    };
    layer(&input, &matrix, handle);
    // SAFETY: it is used no more.
    unsafe { c::tritgemm_matrix_destroy(handle) };
});

/// The same outcome, with the same message.
#[track_caller]
fn agree<T, E: Display>(status: Status, want: &Result<T, E>) -> bool {
    // SAFETY: this thread's message, copied at once.
    let text = unsafe { CStr::from_ptr(c::tritgemm_last_error()) };
    let text = text.to_str().expect("UTF-8");
    match want {
        Ok(_) => assert_eq!(status, Status::TritgemmOk, "{text}"),
        Err(error) => {
            assert_ne!(status, Status::TritgemmOk, "expected {error}");
            assert_ne!(status, Status::TritgemmInternal, "{text}");
            assert_eq!(text, error.to_string());
        }
    }
    want.is_ok()
}

fn codes(input: &Input) {
    let Size { rows, cols } = input.size;
    let weights = rows * cols;
    let trits = input.trits.values(input.len(0, weights));
    let mode = input.mode.into();
    let number = i32::from(mode == codec::Mode::Lenient);
    let mut want = vec![0xa5; input.len(1, rows * cols.div_ceil(4))];
    let result = codec::encode(&trits, rows, cols, &mut want, mode);
    let from = Memory::new(&trits, input.at[0]);
    let mut to = Memory::new(&vec![0xa5u8; want.len()], input.at[1]);
    // SAFETY: buffers with their lengths.
    let status = unsafe {
        c::tritgemm_pack(
            from.ptr(),
            from.len(),
            rows,
            cols,
            to.ptr_mut(),
            to.len(),
            number,
        )
    };
    agree(status, &result);
    assert_eq!(to.take(), want);

    // What was packed, or any bytes.
    let bytes = if result.is_ok() {
        want
    } else {
        input.x.0.bytes(want.len())
    };
    let packed = Memory::new(&bytes, input.at[1]);
    let mut want = vec![77i8; input.len(2, weights)];
    let result = codec::decode(&bytes, rows, cols, &mut want, mode);
    let mut to = Memory::new(&vec![77i8; want.len()], input.at[2]);
    // SAFETY: buffers with their lengths.
    let status = unsafe {
        let (from, len) = (packed.ptr(), packed.len());
        c::tritgemm_unpack(from, len, rows, cols, to.ptr_mut(), to.len(), number)
    };
    agree(status, &result);
    assert_eq!(to.take(), want);

    let scales = input.scales.0.floats(input.len(3, rows), input.scales.1);
    let mut want = vec![7.5f32; input.len(2, weights)];
    let result = codec::decode_f32(&bytes, rows, cols, &scales, &mut want, mode);
    let scales = Memory::new(&scales, input.at[3]);
    let mut to = Memory::new(&vec![7.5f32; want.len()], input.at[2]);
    // SAFETY: buffers with their lengths.
    let status = unsafe {
        let (from, len) = (packed.ptr(), packed.len());
        let (s, s_len) = (scales.ptr(), scales.len());
        c::tritgemm_unpack_f32(
            from,
            len,
            rows,
            cols,
            s,
            s_len,
            to.ptr_mut(),
            to.len(),
            number,
        )
    };
    // After an error an output that is not aligned keeps what it had.
    if agree(status, &result) {
        assert_eq!(bits(&to.take()), bits(&want));
    } else {
        to.take();
    }
}

/// A matrix by trits and by packed bytes, and the same by the crate.
fn matrix(input: &Input) -> Option<(TernaryMatrix, *mut c::Matrix)> {
    let Size { rows, cols } = input.size;
    let kind = GRANULARITIES[usize::from(input.granularity) % GRANULARITIES.len()];
    let count = match kind {
        1 => 1,
        2 => rows,
        group => rows * cols.div_ceil(group as usize),
    };
    let trits = input.trits.values(input.len(0, rows * cols));
    let scales = input.scales.0.floats(input.len(3, count), input.scales.1);
    let (t, s) = (
        Memory::new(&trits, input.at[0]),
        Memory::new(&scales, input.at[3]),
    );
    let mut handle = null_mut();
    // SAFETY: buffers with their lengths, an out pointer.
    let status = unsafe {
        let (t, n, out) = (t.ptr(), t.len(), &mut handle);
        c::tritgemm_matrix_from_trits(t, n, rows, cols, kind, s.ptr(), s.len(), out)
    };
    assert_eq!(status == Status::TritgemmOk, !handle.is_null());
    let group = GroupSize::from_len(kind as usize);
    let all = match (kind, group, &scales[..]) {
        (1, _, &[scale]) => Scales::per_tensor(scale),
        (2, _, _) => Scales::per_row(scales),
        (_, Some(group), _) => Scales::per_group(group, scales),
        (1, _, _) => {
            assert_eq!(status, Status::TritgemmInvalidSize);
            return None;
        }
        _ => {
            assert_eq!(status, Status::TritgemmInvalidArgument);
            return None;
        }
    };
    let want = TernaryMatrix::from_trits(&trits, rows, cols, all.clone());
    agree(status, &want);
    let want = want.ok()?;
    let packed = Memory::new(want.packed(), input.at[1]);
    let mut again = null_mut();
    // SAFETY: buffers with their lengths, out pointers, handles that live; what
    // they lend is read before they are destroyed.
    unsafe {
        let (p, n, out) = (packed.ptr(), packed.len(), &mut again);
        let status = c::tritgemm_matrix_from_packed(p, n, rows, cols, kind, s.ptr(), s.len(), out);
        assert_eq!(status, Status::TritgemmOk);
        for matrix in [handle, again] {
            let size = [
                c::tritgemm_matrix_rows(matrix),
                c::tritgemm_matrix_cols(matrix),
            ];
            assert_eq!(size, [rows, cols]);
            let (mut p, mut n) = (null(), 0);
            c::tritgemm_matrix_packed(matrix, &mut p, &mut n);
            assert_eq!(std::slice::from_raw_parts(p, n), want.packed());
            let (mut granularity, mut p, mut n) = (0, null(), 0);
            c::tritgemm_matrix_scales(matrix, &mut granularity, &mut p, &mut n);
            assert_eq!(granularity, kind);
            let scales = std::slice::from_raw_parts(p, n);
            assert_eq!(bits(scales), bits(all.values()));
        }
        c::tritgemm_matrix_destroy(again);
    }
    Some((want, handle))
}

fn layer(input: &Input, matrix: &TernaryMatrix, handle: *mut c::Matrix) {
    let (m, k) = (matrix.rows(), matrix.cols());
    let floats = |(fill, style): &(Fill, Style)| fill.floats(input.len(4, m), *style);
    let bias = input.bias.as_ref().map(floats);
    let want = Linear::new(matrix);
    let want = want.and_then(|layer| match &bias {
        Some(bias) => layer.with_bias(bias.clone()),
        None => Ok(layer),
    });
    let memory = Memory::new(bias.as_deref().unwrap_or(&[]), input.at[3]);
    let bias = if bias.is_some() { memory.ptr() } else { null() };
    let mut linear = null_mut();
    // SAFETY: a buffer with its length, a handle that lives, an out pointer.
    let status = unsafe { c::tritgemm_linear_create(handle, bias, memory.len(), &mut linear) };
    if !agree(status, &want) {
        assert!(linear.is_null());
        return;
    }
    let layer = want.expect("agreed");
    let n = usize::from(input.tokens % 10);
    let x = input.x.0.floats(n * k, input.x.1);
    let (mut workspace, mut panels) = (null_mut(), null_mut());
    // SAFETY: handles that live, and out pointers.
    unsafe {
        assert_eq!(
            c::tritgemm_workspace_create(&mut workspace),
            Status::TritgemmOk
        );
        assert_eq!(
            c::tritgemm_linear_panels(linear, &mut panels),
            Status::TritgemmOk
        );
    }
    let ws = &mut Workspace::new();
    let f16s: Vec<f16> = x.iter().map(|&v| f16::from_f32(v)).collect();
    let bf16s: Vec<bf16> = x.iter().map(|&v| bf16::from_f32(v)).collect();
    let i8s = input.x.0.i8s(n * k);
    let half_bits: Vec<u16> = f16s.iter().map(|v| v.to_bits()).collect();
    let bf16_bits: Vec<u16> = bf16s.iter().map(|v| v.to_bits()).collect();
    let mut y = vec![7.5f32; n * m];

    let done = layer.forward(view(&x, n, k), view_mut(&mut y, n, m), ws);
    product(
        input,
        [m, k, n],
        (&x, &y, 7.5),
        &done,
        |x, xl, xs, y, yl, ys| {
            // SAFETY: buffers with their lengths, handles that live.
            unsafe { c::tritgemm_linear_forward(linear, n, x, xl, xs, y, yl, ys, workspace) }
        },
    );
    y.fill(7.5);
    let done = layer.forward_f32(view(&x, n, k), view_mut(&mut y, n, m), ws);
    product(
        input,
        [m, k, n],
        (&x, &y, 7.5),
        &done,
        |x, xl, xs, y, yl, ys| {
            // SAFETY: as above.
            unsafe { c::tritgemm_linear_forward_f32(linear, n, x, xl, xs, y, yl, ys, workspace) }
        },
    );
    y.fill(7.5);
    let done = layer.forward(view(&f16s, n, k), view_mut(&mut y, n, m), ws);
    product(
        input,
        [m, k, n],
        (&half_bits, &y, 7.5),
        &done,
        |x, xl, xs, y, yl, ys| {
            // SAFETY: as above.
            unsafe { c::tritgemm_linear_forward_f16(linear, n, x, xl, xs, y, yl, ys, workspace) }
        },
    );
    y.fill(7.5);
    let done = layer.forward(view(&bf16s, n, k), view_mut(&mut y, n, m), ws);
    product(
        input,
        [m, k, n],
        (&bf16_bits, &y, 7.5),
        &done,
        |x, xl, xs, y, yl, ys| {
            // SAFETY: as above.
            unsafe { c::tritgemm_linear_forward_bf16(linear, n, x, xl, xs, y, yl, ys, workspace) }
        },
    );

    // The same panels at an address of any alignment.
    let bytes = Memory::new(layer.panels().as_bytes(), input.at[1]);
    let mut lent = null_mut();
    let len = input.len(5, bytes.len()).min(bytes.len());
    // SAFETY: a buffer that outlives the handle, an out pointer.
    let status = unsafe { c::tritgemm_panels_from_memory(bytes.ptr(), len, m, k, &mut lent) };
    agree(
        status,
        &Panels::from_bytes(bytes.values()[..len].to_vec(), m, k),
    );
    let mut y = vec![77i32; n * m];
    let x = MatRef::new(&i8s, n, k).expect("a dense view");
    let done = layer
        .panels()
        .gemm_i8(x, MatMut::new(&mut y, n, m).expect("a dense view"), ws);
    for panels in [panels, lent] {
        if panels.is_null() {
            continue;
        }
        product(
            input,
            [m, k, n],
            (&i8s, &y, 77),
            &done,
            |x, xl, xs, y, yl, ys| {
                // SAFETY: as above.
                unsafe { c::tritgemm_gemm_i8(panels, n, x, xl, xs, y, yl, ys, workspace) }
            },
        );
        // SAFETY: it is used no more.
        unsafe { c::tritgemm_panels_destroy(panels) };
    }
    // SAFETY: they are used no more.
    unsafe {
        c::tritgemm_linear_destroy(linear);
        c::tritgemm_workspace_destroy(workspace);
    }
}

/// A product by strides and at addresses of the input's choice: `y` as
/// expected, the rest of it untouched; too short a buffer is an error.
fn product<X: Bytes, Y: Bytes, E: Display>(
    input: &Input,
    [m, k, n]: [usize; 3],
    (x, y, canary): (&[X], &[Y], Y),
    done: &Result<(), E>,
    run: impl FnOnce(*const X, usize, usize, *mut Y, usize, usize) -> Status,
) {
    let strides = [k, m].map(|cols| cols + usize::from(input.strides[usize::from(cols == m)] % 5));
    let [x_stride, y_stride] = strides;
    let spread =
        |cols: usize, stride: usize| n.saturating_sub(1) * stride + if n > 0 { cols } else { 0 };
    let mut xs = vec![X::default(); spread(k, x_stride)];
    for row in 0..n {
        xs[row * x_stride..][..k].copy_from_slice(&x[row * k..][..k]);
    }
    let xs = Memory::new(&xs, input.at[0]);
    let mut ys = Memory::new(&vec![canary; spread(m, y_stride)], input.at[2]);
    // Never longer than they are.
    let x_len = input.len(6, xs.len()).min(xs.len());
    let y_len = input.len(7, ys.len()).min(ys.len());
    let short = (x_len < xs.len() && n * k > 0) || (y_len < ys.len() && n * m > 0);
    let status = run(xs.ptr(), x_len, x_stride, ys.ptr_mut(), y_len, y_stride);
    let got = ys.take();
    let same = |a: &Y, b: &Y| a.bits() == b.bits();
    if short {
        assert_eq!(status, Status::TritgemmInvalidSize);
        assert!(got.iter().all(|v| same(v, &canary)));
        return;
    }
    agree(status, done);
    for (at, value) in got.iter().enumerate() {
        let (row, col) = (at / y_stride.max(1), at % y_stride.max(1));
        let want = if col < m && done.is_ok() {
            y[row * m + col]
        } else {
            canary
        };
        assert!(
            same(value, &want),
            "token {row}, output {col} of {n} x {k} x {m}"
        );
    }
}

/// A file in memory at any alignment is the file that the crate reads.
fn file(input: &Input) {
    let Some((fill, len, right)) = &input.file else {
        return;
    };
    let mut bytes = fill.bytes(usize::from(len % 2048));
    if *right {
        derive(&mut bytes);
    } else {
        repair(&mut bytes);
    }
    let memory = Memory::new(&bytes, input.at[1]);
    for (number, verify) in [(0, Verify::Full), (1, Verify::Header)] {
        let want = PanelFile::from_bytes(bytes.clone(), verify);
        let (mut file, mut linear, mut panels) = (null_mut(), null_mut(), null_mut());
        // SAFETY: a buffer that outlives the handles, out pointers.
        unsafe {
            let (from, n) = (memory.ptr(), memory.len());
            let status = c::tritgemm_panel_file_from_memory(from, n, number, &mut file);
            if !agree(status, &want) {
                assert!(file.is_null());
                continue;
            }
            let want = want.expect("agreed");
            let (mut rows, mut cols, mut kind, mut bias) = (0, 0, 0, false);
            c::tritgemm_panel_file_info(file, &mut rows, &mut cols, &mut kind, &mut bias);
            assert_eq!([rows, cols], [want.panels().rows(), want.panels().cols()]);
            assert_eq!(
                (kind != 0, bias),
                (want.scales().is_some(), want.bias().is_some())
            );
            let status = c::tritgemm_panel_file_panels(file, &mut panels);
            assert_eq!(status, Status::TritgemmOk);
            let (mut at, mut n) = (null(), 0);
            c::tritgemm_panels_bytes(panels, &mut at, &mut n);
            assert_eq!(std::slice::from_raw_parts(at, n), want.panels().as_bytes());
            let status = c::tritgemm_panel_file_linear(file, &mut linear);
            agree(status, &Linear::try_from(want));
            c::tritgemm_panel_file_destroy(file);
            c::tritgemm_panels_destroy(panels);
            c::tritgemm_linear_destroy(linear);
        }
    }
}

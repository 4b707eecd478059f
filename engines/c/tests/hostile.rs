//! Arguments that are wrong: each is an error that says so, never worse.

mod common;

use common::{Case, F32, K, M, N, fails, forward_int8, make, ok, prepare_int8};
use std::ffi::CStr;
use std::ptr::{null, null_mut};
use tritgemm_capi::*;

#[track_caller]
fn fails_null(got: Status, part: &str) {
    fails(got, Status::TritgemmNullPointer, part);
}

#[track_caller]
fn fails_size(got: Status, part: &str) {
    fails(got, Status::TritgemmInvalidSize, part);
}

#[track_caller]
fn fails_choice(got: Status, part: &str) {
    fails(got, Status::TritgemmInvalidArgument, part);
}

#[track_caller]
fn fails_value(got: Status, part: &str) {
    fails(got, Status::TritgemmInvalidValue, part);
}

/// `f32`s at an address that is not aligned for them.
fn misaligned(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * values.len() + 8];
    let offset = offset(&bytes);
    for (to, value) in bytes[offset..].chunks_exact_mut(4).zip(values) {
        to.copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

/// Where in `bytes` the first address lies that is one above a multiple of 4.
fn offset(bytes: &[u8]) -> usize {
    (5 - bytes.as_ptr().addr() % 4) % 4
}

#[test]
fn null_handles_and_outs() {
    let case = Case::new();
    let (x, mut y) = (case.x.as_ptr(), vec![7.0f32; N * M]);
    let (len, yp) = (N * K, y.as_mut_ptr());
    let (linear, ws) = (case.linear, case.workspace);
    // SAFETY: buffers with their lengths, handles that live or are null.
    unsafe {
        let forward = forward_int8;
        fails_null(forward(null(), N, x, len, K, yp, N * M, M, ws), "`linear`");
        fails_null(forward(linear, N, null(), len, K, yp, N * M, M, ws), "`x`");
        fails_null(
            forward(linear, N, x, len, K, null_mut(), N * M, M, ws),
            "`y`",
        );
        let none = null_mut();
        fails_null(
            forward(linear, N, x, len, K, yp, N * M, M, none),
            "`workspace`",
        );
        // One byte into a handle.
        let inside = linear.cast_const().wrapping_byte_add(1);
        fails_null(forward(inside, N, x, len, K, yp, N * M, M, ws), "no handle");

        fails_null(tritgemm_workspace_create(null_mut()), "`out`");
        fails_null(tritgemm_workspace_pin(null_mut(), null()), "`workspace`");
        let set = tritgemm_workspace_set_weights_in_cache;
        fails_null(set(null_mut(), true), "`workspace`");
        let set = tritgemm_workspace_set_parallel_for;
        fails_null(set(null_mut(), 2, None, null_mut()), "`workspace`");
        fails_null(tritgemm_panels_pack(case.matrix, null_mut()), "`out`");
        let mut panels = null_mut();
        fails_null(tritgemm_panels_pack(null(), &mut panels), "`matrix`");
        assert!(panels.is_null());
        let mut linear = null_mut();
        fails_null(
            tritgemm_linear_create(null(), null(), 0, &mut linear),
            "`matrix`",
        );
        fails_null(
            tritgemm_linear_create(case.matrix, null(), M, &mut linear),
            "`bias`",
        );
        let mut prepared = null_mut();
        let prepare = prepare_int8;
        let layer = case.linear;
        fails_null(prepare(null(), N, x, len, K, ws, &mut prepared), "`linear`");
        fails_null(prepare(layer, N, null(), len, K, ws, &mut prepared), "`x`");
        fails_null(
            prepare(layer, N, x, len, K, none, &mut prepared),
            "`workspace`",
        );
        fails_null(prepare(layer, N, x, len, K, ws, null_mut()), "`out`");
        let mut file = null_mut();
        fails_null(tritgemm_panel_file_map(null(), 0, &mut file), "`path`");
        fails_null(tritgemm_panel_file_load(null(), &mut file), "`path`");
        fails_null(tritgemm_linear_save(case.linear, null()), "`path`");
        fails_null(tritgemm_packed_size(1, 1, null_mut()), "`out`");
        fails_null(
            tritgemm_matrix_packed(case.matrix, null_mut(), null_mut()),
            "`packed`",
        );

        let sizes = [
            tritgemm_matrix_rows(null()),
            tritgemm_matrix_cols(null()),
            tritgemm_linear_rows(null()),
            tritgemm_linear_cols(null()),
            tritgemm_linear_group(null()),
            tritgemm_panels_rows(null()),
            tritgemm_panels_cols(null()),
            tritgemm_prepared_tokens(null()),
            tritgemm_prepared_cols(null()),
        ];
        assert_eq!(sizes, [0; 9]);
        tritgemm_matrix_destroy(null_mut());
        tritgemm_panels_destroy(null_mut());
        tritgemm_linear_destroy(null_mut());
        tritgemm_prepared_destroy(null_mut());
        tritgemm_panel_file_destroy(null_mut());
    }
    assert!(y.iter().all(|&y| y == 7.0), "outputs of failed calls");
    case.check(case.workspace);
}

#[test]
fn sizes() {
    let case = Case::new();
    let (x, mut y) = (case.x.as_ptr(), vec![7.0f32; N * M]);
    let (len, out, ws) = (N * K, N * M, case.workspace);
    let yp = y.as_mut_ptr();
    let huge = usize::MAX;
    // Tokens, and length and stride of x and y; never more than there is, but
    // where the call must not get as far as reading.
    let cases = [
        ([N, len - 1, K, out, M], "`x`"),
        ([N, len, K, out - 1, M], "`y`"),
        ([N, len, K - 1, out, M], "stride"),
        ([N, len, K, out, M - 1], "stride"),
        ([N, len, K + 1, out, M], "`x`"),
        ([N + 1, len, K, out, M], "`x`"),
        ([huge, len, K, out, M], "`x`"),
        ([N, len, huge, out, M], "`x`"),
        ([N, len, K, out, huge], "`y`"),
        ([huge, len, huge, out, huge], "`x`"),
        ([N, huge, K, out, M], "address space"),
        ([N, huge / 4, K, out, M], "address space"),
        ([N, len, K, huge, M], "address space"),
    ];
    for ([n, x_len, x_stride, y_len, y_stride], part) in cases {
        // SAFETY: the lengths that are too long do not fit the address space.
        let status = unsafe {
            let forward = forward_int8;
            forward(case.linear, n, x, x_len, x_stride, yp, y_len, y_stride, ws)
        };
        fails_size(status, part);
    }
    assert!(y.iter().all(|&y| y == 7.0));
    // SAFETY: out pointers and lengths as they are.
    unsafe {
        let mut size = 3;
        fails_size(tritgemm_packed_size(huge, 8, &mut size), "address space");
        fails_size(tritgemm_panels_size(huge, 8, &mut size), "address space");
        fails_size(tritgemm_panels_size(1, 1 << 24, &mut size), "columns");
        fails_size(
            tritgemm_scale_count(huge, 65, 64, &mut size),
            "address space",
        );
        assert_eq!(size, 3);
        let mut matrix = null_mut();
        let (trits, scale) = ([0i8; 4], [1.0f32]);
        let (t, s) = (trits.as_ptr(), scale.as_ptr());
        let from_trits = tritgemm_matrix_from_trits;
        fails_size(
            from_trits(t, 4, huge, huge, 1, s, 1, &mut matrix),
            "address space",
        );
        fails_size(
            from_trits(t, 0, 0, 1 << 24, 2, s, 0, &mut matrix),
            "columns",
        );
        fails_size(
            from_trits(t, 4, huge, 2, 1, s, 1, &mut matrix),
            "address space",
        );
        fails_size(from_trits(t, 4, 3, 2, 1, s, 1, &mut matrix), "expected 6");
        fails_size(from_trits(t, 4, 2, 2, 1, s, 0, &mut matrix), "expected 1");
        fails_size(from_trits(t, 4, 2, 2, 2, s, 1, &mut matrix), "expected 2");
        assert!(matrix.is_null());
        let mut linear = null_mut();
        fails_size(
            tritgemm_linear_create(case.matrix, s, 1, &mut linear),
            "`bias` has length 1",
        );
        let slice = tritgemm_linear_slice_rows;
        fails_size(slice(case.linear, 64, 32, &mut linear), "rows 64..32");
        fails_size(slice(case.linear, 0, huge, &mut linear), "rows 0..");
        fails_size(slice(case.linear, 1, 64, &mut linear), "multiples of 64");
        let (mut panels, bytes) = (null_mut(), [0u8; 64]);
        let from_memory = tritgemm_panels_from_memory;
        fails_size(
            from_memory(bytes.as_ptr(), 64, 1, 1, &mut panels),
            "expected 192",
        );
        fails_null(from_memory(null(), 192, 1, 1, &mut panels), "`bytes`");
        let mut prepared = null_mut();
        let (i8s, prepare) = (case.x_i8.as_ptr(), tritgemm_prepared_from_int8);
        let status = prepare(N, K, i8s, len, K, 0, s, 1, 0, ws, &mut prepared);
        fails_size(status, "`token_scales` has length 1, expected");
        let prepared = make(|out| prepare(1, K - 1, i8s, K - 1, K - 1, 0, s, 1, 0, ws, out));
        let forward = tritgemm_linear_forward_prepared;
        fails_size(
            forward(case.linear, prepared, yp, M, M, ws),
            "matrix of 300",
        );
        tritgemm_prepared_destroy(prepared);
    }
    case.check(case.workspace);
}

#[test]
fn choices_and_values() {
    let case = Case::new();
    // SAFETY: buffers with their lengths, out pointers, handles that live.
    unsafe {
        let choice = Status::TritgemmInvalidArgument;
        let unsupported = Status::TritgemmUnsupportedIsa;
        let foreign = match cfg!(target_arch = "aarch64") {
            true => c"avx2",
            false => c"neon",
        };
        let cases = [
            (c"", choice, "unknown instruction set ``"),
            (c"sse9", choice, "unknown instruction set `sse9`"),
            (
                c"scalar/zen4",
                choice,
                "unknown instruction set `scalar/zen4`",
            ),
            (c"\xff", choice, "unknown instruction set"),
            (foreign, unsupported, "not part of this build"),
        ];
        for (name, status, part) in cases {
            fails(tritgemm_pin(name.as_ptr()), status, part);
            let status_here = tritgemm_workspace_pin(case.workspace, name.as_ptr());
            fails(status_here, status, part);
        }
        let mut count = 0;
        for granularity in [0, 3, -1, 65, i32::MIN] {
            let status = tritgemm_scale_count(1, 1, granularity, &mut count);
            fails_choice(status, "tritgemm_granularity");
        }
        let (mut trits, mut packed) = ([1i8, 9, -1], [0b0111_0000u8]);
        let (t, p) = (trits.as_mut_ptr(), packed.as_mut_ptr());
        fails_choice(tritgemm_pack(t, 3, 1, 3, p, 1, 2), "tritgemm_mode");
        fails_value(tritgemm_pack(t, 3, 1, 3, p, 1, 0), "column 1");
        ok(tritgemm_pack(t, 3, 1, 3, p, 1, 1));
        assert_eq!(*p, 0b0100_1000);
        *p = 0b0111_0000;
        fails_value(tritgemm_unpack(p, 1, 1, 3, t, 3, 0), "code 11");
        ok(tritgemm_unpack(p, 1, 1, 3, t, 3, 1));
        assert_eq!(trits, [1, 0, 0]);
        let mut matrix = null_mut();
        let nan = [f32::NAN];
        let quantize = tritgemm_matrix_quantize;
        fails_value(quantize(nan.as_ptr(), 1, 1, 1, 1, &mut matrix), "NaN");
        let (mut prepared, ws) = (null_mut(), case.workspace);
        let (x, prepare) = ([f32::NAN; K], prepare_int8);
        fails_value(
            prepare(case.linear, 1, x.as_ptr(), K, K, ws, &mut prepared),
            "NaN",
        );
        let (x, prepare) = (x.as_ptr().cast(), tritgemm_linear_prepare_int8);
        let status = prepare(case.linear, 1, 3, x, K, K, 0, ws, &mut prepared);
        fails_choice(status, "float 3, expected a tritgemm_float");
        let (i8s, prepare) = (case.x_i8.as_ptr(), tritgemm_prepared_from_int8);
        let status = prepare(1, 1, i8s, 1, 1, 0, nan.as_ptr(), 1, 7, ws, &mut prepared);
        fails_choice(status, "group");
        assert!(matrix.is_null() && prepared.is_null());

        let bytes = [0u8; 128];
        let mut file = null_mut();
        let from_memory = tritgemm_panel_file_from_memory;
        let bad = Status::TritgemmBadFile;
        fails_choice(
            from_memory(bytes.as_ptr(), 128, 2, &mut file),
            "tritgemm_verify",
        );
        fails(
            from_memory(bytes.as_ptr(), 128, 0, &mut file),
            bad,
            "TRITPANL",
        );
        fails(from_memory(null(), 0, 0, &mut file), bad, "128");
        let nowhere = c"/nonexistent/file".as_ptr();
        fails(
            tritgemm_panel_file_map(nowhere, 0, &mut file),
            Status::TritgemmIo,
            "/nonexistent",
        );
        fails(
            tritgemm_linear_save(case.linear, nowhere),
            Status::TritgemmIo,
            "/nonexistent",
        );
        assert!(file.is_null());
        assert!(tritgemm_status_name(-1).is_null() && tritgemm_status_name(13).is_null());
        let last = CStr::from_ptr(tritgemm_status_name(12));
        assert_eq!(last, c"TRITGEMM_OUT_OF_MEMORY");
        assert!(tritgemm_backend_name(99).is_null());
        assert!(tritgemm_cpu_feature(usize::MAX, null_mut()).is_null());
    }
    case.check(case.workspace);
}

/// Any alignment, in and out, and strides that leave gaps: the same results,
/// and gaps untouched.
#[test]
fn misaligned_and_strided_buffers() {
    let case = Case::new();
    let x = misaligned(&case.x);
    // Rows of y two elements further apart than they are long.
    let canary = vec![-1.5f32; N * (M + 2)];
    let mut y = misaligned(&canary);
    let (at_x, at_y) = (offset(&x), offset(&y));
    let xp = x[at_x..].as_ptr().cast::<f32>();
    let yp = y[at_y..].as_mut_ptr().cast::<f32>();
    assert!(!xp.is_aligned() && !yp.is_aligned());
    for _ in 0..2 {
        // SAFETY: as long as said, whatever the alignment.
        ok(unsafe {
            let (len, out) = (N * K, N * (M + 2));
            forward_int8(case.linear, N, xp, len, K, yp, out, M + 2, case.workspace)
        });
    }
    for (i, bytes) in y[at_y..].chunks_exact(4).take(N * (M + 2)).enumerate() {
        let value = f32::from_ne_bytes(bytes.try_into().expect("4 bytes"));
        let (n, m) = (i / (M + 2), i % (M + 2));
        let wanted = if m < M {
            case.quantized[n * M + m]
        } else {
            -1.5
        };
        assert_eq!(value, wanted, "token {n}, row {m}");
    }
    // Scales and weights that are not aligned, and an out pointer that is not.
    let weights = misaligned(&[0.5, -0.5, 0.0, 0.25]);
    let wp = weights[offset(&weights)..].as_ptr().cast::<f32>();
    let mut outs = [null_mut::<Matrix>(); 2];
    let out = outs.as_mut_ptr().wrapping_byte_add(1);
    // SAFETY: as long as said; the out pointer lies inside of `outs`.
    unsafe {
        ok(tritgemm_matrix_quantize(wp, 4, 2, 2, 1, out));
        let matrix = out.read_unaligned();
        assert_eq!(tritgemm_matrix_rows(matrix), 2);
        tritgemm_matrix_destroy(matrix);
    }
}

#[test]
fn overlap() {
    let case = Case::new();
    // Activations and outputs in one buffer, side by side in every row.
    let (stride, ws) = (K + M, case.workspace);
    let mut both = vec![0.0f32; N * stride + 1];
    for (row, x) in both.chunks_mut(stride).zip(case.x.chunks(K)) {
        row[..K].copy_from_slice(x);
    }
    let (p, len) = (both.as_mut_ptr(), N * stride);
    let run = |x: usize, y: usize, y_stride: usize| {
        let (x_len, y_len) = (len - x, len - y);
        let (x, y) = (p.wrapping_add(x), p.wrapping_add(y));
        // SAFETY: both inside of `both`; that they overlap is what is tested.
        unsafe {
            tritgemm_linear_forward_f32(
                case.linear,
                N - 1,
                x,
                x_len,
                stride,
                y,
                y_len,
                y_stride,
                ws,
            )
        }
    };
    let shared = Status::TritgemmOverlap;
    fails(run(0, 0, stride), shared, "`y` is written and overlaps `x`");
    fails(run(0, K - 1, stride), shared, "overlaps");
    fails(run(M, 1, stride), shared, "overlaps");
    fails(run(0, K, stride - 1), shared, "overlaps");
    ok(run(0, K, stride));
    for (row, wanted) in both.chunks(stride).zip(case.floats.chunks(M)).take(N - 1) {
        assert_eq!(&row[K..], wanted);
    }
    let mut bytes = [0u8; 8];
    let b = bytes.as_mut_ptr();
    let trits = b.cast::<i8>();
    let mut panels = null_mut();
    // SAFETY: inside of `bytes`; the panels go before their memory does.
    unsafe {
        fails(
            tritgemm_pack(trits, 4, 1, 4, b.wrapping_add(3), 1, 0),
            shared,
            "`trits`",
        );
        ok(tritgemm_pack(trits, 4, 1, 4, b.wrapping_add(4), 1, 0));
        let mut memory = vec![0u32; 48];
        let m = memory.as_mut_ptr();
        ok(tritgemm_panels_from_memory(
            m.cast(),
            192,
            1,
            1,
            &mut panels,
        ));
        let x = [1i8];
        let status = tritgemm_panels_gemm_i8(panels, 1, x.as_ptr(), 1, 1, m.cast(), 1, 1, ws);
        fails(status, shared, "`panels`");
        tritgemm_panels_destroy(panels);
    }
}

#[test]
fn nothing_to_do() {
    let case = Case::new();
    let (forward, ws) = (forward_int8, case.workspace);
    // SAFETY: empty buffers may be null.
    unsafe {
        let (none, gemm) = (null_mut(), tritgemm_panels_gemm_i8);
        ok(forward(case.linear, 0, null(), 0, K, none, 0, M, ws));
        ok(gemm(case.panels, 0, null(), 0, K, null_mut(), 0, M, ws));
        ok(tritgemm_pack(null(), 0, 0, 0, null_mut(), 0, 0));
        let empty = make(|out| tritgemm_matrix_from_trits(null(), 0, 0, 5, 2, null(), 0, out));
        let layer = make(|out| tritgemm_linear_create(empty, null(), 0, out));
        let x = [1.0f32; 5];
        ok(forward(layer, 1, x.as_ptr(), 5, 5, none, 0, 0, ws));
        // No columns: the outputs are zeros, for as many tokens as fit.
        let flat = make(|out| tritgemm_matrix_from_trits(null(), 0, 2, 0, 1, x.as_ptr(), 1, out));
        let flat_layer = make(|out| tritgemm_linear_create(flat, null(), 0, out));
        let (mut y, tokens) = ([7.0f32; 6], usize::MAX / 2);
        let yp = y.as_mut_ptr();
        fails_size(
            forward(flat_layer, tokens, null(), 0, 0, yp, 6, 2, ws),
            "`y`",
        );
        ok(forward(flat_layer, 3, null(), 0, 0, yp, 6, 2, ws));
        assert_eq!(y, [0.0; 6]);
        for matrix in [empty, flat] {
            tritgemm_matrix_destroy(matrix);
        }
        for layer in [layer, flat_layer] {
            tritgemm_linear_destroy(layer);
        }
    }
}

/// What is wrong with several outputs or with routes is said, and nothing is written.
#[test]
fn outputs_and_routes() {
    let case = Case::new();
    let (l, ws, x) = (case.linear, case.workspace, case.x.as_ptr());
    let mut y = vec![7.0f32; 2 * N * M];
    let output = |data: *mut f32, float: i32| Output {
        data: data.cast(),
        len: N * M,
        stride: M,
        r#type: float,
        add: 0,
    };
    // SAFETY: buffers with their lengths, handles that live or are null.
    unsafe {
        let prepared = make(|out| tritgemm_linear_prepare_f32(l, N, x, N * K, K, ws, out));
        let yp = y.as_mut_ptr();
        let layers = [l.cast_const(), l];
        let many = |layers: &[*const Linear; 2], ys: [Output; 2]| {
            tritgemm_linear_forward_many(layers.as_ptr(), ys.as_ptr(), 2, prepared, ws)
        };
        let (first, second) = (output(yp, 0), output(yp.wrapping_add(N * M), 0));
        ok(many(&layers, [first, second]));
        y.fill(7.0);
        fails_null(many(&[l, null()], [first, second]), "`layers`");
        fails_null(many(&layers, [first, output(null_mut(), 0)]), "`outputs`");
        fails_choice(
            many(&layers, [output(yp, 9), output(yp, 9)]),
            "tritgemm_float",
        );
        fails_choice(many(&layers, [first, output(yp, 1)]), "one type");
        let short = Output {
            len: N * M - 1,
            ..second
        };
        fails_size(many(&layers, [first, short]), "too few");
        let close = output(yp.wrapping_add(N * M - 1), 0);
        fails(
            many(&layers, [first, close]),
            Status::TritgemmOverlap,
            "`outputs`",
        );
        let (mut bytes, mut len) = (null(), 0);
        ok(tritgemm_panels_bytes(case.panels, &mut bytes, &mut len));
        let bytes = bytes.cast_mut().cast();
        fails(
            many(&layers, [first, output(bytes, 0)]),
            Status::TritgemmOverlap,
            "`layers`",
        );
        let none = tritgemm_linear_forward_many(null(), null(), 0, prepared, ws);
        ok(none);
        fails_null(
            tritgemm_linear_forward_many(null(), &first, 1, prepared, ws),
            "`layers`",
        );
        fails_null(
            tritgemm_linear_forward_many(&layers[0], null(), 1, prepared, ws),
            "`outputs`",
        );
        fails_null(
            tritgemm_linear_forward_many(&layers[0], &first, 1, null(), ws),
            "`x`",
        );
        let again = tritgemm_linear_prepare_f32_into;
        fails_size(again(l, 1, x, K - 1, K, ws, prepared), "too few");
        fails_null(again(l, 1, x, K, K, ws, null_mut()), "`prepared`");
        let nan = [f32::NAN; K];
        let again = tritgemm_linear_prepare_int8_into;
        fails_value(
            again(l, 1, F32, nan.as_ptr().cast(), K, K, 0, ws, prepared),
            "NaN",
        );
        assert_eq!(tritgemm_prepared_tokens(prepared), 0);
        tritgemm_prepared_destroy(prepared);

        let mut experts = null_mut();
        fails_null(
            tritgemm_experts_create([null()].as_ptr(), 1, &mut experts),
            "`layers`",
        );
        let shard = make(|out| tritgemm_linear_slice_rows(l, 0, 64, out));
        let unlike = [l.cast_const(), shard];
        fails_size(
            tritgemm_experts_create(unlike.as_ptr(), 2, &mut experts),
            "out_features",
        );
        assert!(experts.is_null());
        let experts = make(|out| tritgemm_experts_create(layers.as_ptr(), 2, out));
        let routed = make(|out| tritgemm_routed_create(out));
        let route = |sent: &[usize], counts: &[usize]| {
            let ((s, sl), (c, cl)) = ((sent.as_ptr(), sent.len()), (counts.as_ptr(), counts.len()));
            tritgemm_experts_prepare_f32(experts, N, x, N * K, K, s, sl, c, cl, ws, routed)
        };
        fails_size(route(&[0], &[1]), "`counts`");
        fails_size(route(&[0], &[1, 1]), "`tokens`");
        fails_choice(route(&[0, N], &[1, 1]), "is 50, expected");
        ok(route(&[0, 1], &[1, 1]));
        let scatter = |to: [usize; 2]| {
            tritgemm_experts_scatter(experts, routed, to.as_ptr(), 2, N, yp, N * M, M, ws)
        };
        fails_choice(scatter([0, N]), "is 50, expected");
        fails_choice(scatter([3, 3]), "there already");
        let (to, y_bytes) = ([0usize, 1], yp.cast::<usize>());
        let add = tritgemm_experts_add_weighted;
        let weights = [1.0f32; 2];
        let (t, w) = (to.as_ptr(), weights.as_ptr());
        fails_size(
            add(experts, routed, t, 2, w, 1, N, yp, N * M, M, ws),
            "`weights`",
        );
        let status = add(experts, routed, y_bytes, 2, w, 2, N, yp, N * M, M, ws);
        fails(status, Status::TritgemmOverlap, "`to`");
        fails_null(add(experts, null(), t, 2, w, 2, N, yp, N * M, M, ws), "`x`");
        assert!(y.iter().all(|&y| y == 7.0));
        tritgemm_routed_destroy(routed);
        tritgemm_experts_destroy(experts);
        tritgemm_experts_destroy(null_mut());
        tritgemm_linear_destroy(shard);
    }
}

//! What the functions compute is what the crate computes.

mod common;

use common::{Case, K, M, N, forward_int8, make, ok, prepare_int8};
use half::{bf16, f16};
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::null;
use std::sync::atomic::{AtomicUsize, Ordering};
use tritgemm::{Backend, diagnostics};
use tritgemm_capi::*;

/// A string of the library's.
fn text(ptr: *const c_char) -> &'static str {
    // SAFETY: the names are static.
    unsafe { CStr::from_ptr(ptr) }.to_str().expect("UTF-8")
}

fn backends() -> Vec<&'static str> {
    let name = |i| text(tritgemm_backend_name(i));
    (0..tritgemm_backend_count()).map(name).collect()
}

/// Pins a backend of the whole process.
fn pin(name: Option<&str>) -> Status {
    let name = name.map(|name| CString::new(name).expect("no zero"));
    // SAFETY: a string that ends with a zero, or null.
    unsafe { tritgemm_pin(name.as_ref().map_or(null(), |name| name.as_ptr())) }
}

#[test]
fn versions_and_features() {
    assert_eq!(text(tritgemm_version()), env!("CARGO_PKG_VERSION"));
    assert_eq!(tritgemm_abi_version(), 1);
    for (i, (name, has)) in diagnostics::cpu_features().into_iter().enumerate() {
        let mut present = !has;
        // SAFETY: an out pointer.
        let found = unsafe { tritgemm_cpu_feature(i, &mut present) };
        assert_eq!((text(found), present), (name, has));
    }
    let busy = tritgemm_status_name(Status::TritgemmBusy as i32);
    assert_eq!(text(busy), "TRITGEMM_BUSY");
}

/// Each backend is listed once and is pinned by the name in the list; each gives the
/// same bits, and so does each level.
#[test]
fn every_backend_gives_the_same_bits() {
    let names = backends();
    let wanted: Vec<_> = Backend::available().map(|b| b.name()).collect();
    assert_eq!(names, wanted);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    let case = Case::new();
    for name in &names {
        ok(pin(Some(name)));
        assert_eq!(text(tritgemm_active_backend()), *name);
        let level = name.split('/').next();
        ok(pin(level));
        assert!(text(tritgemm_active_backend()).starts_with(level.expect("a level")));
        let c_name = CString::new(*name).expect("no zero");
        // SAFETY: the workspace lives, and the name ends with a zero.
        ok(unsafe { tritgemm_workspace_pin(case.workspace, c_name.as_ptr()) });
        case.check(case.workspace);
    }
    // SAFETY: the workspace lives.
    ok(unsafe { tritgemm_workspace_pin(case.workspace, null()) });
    ok(pin(Some("scalar")));
    case.check(case.workspace);
    ok(pin(None));
    assert!(names.contains(&text(tritgemm_active_backend())));
}

/// Weights in the cache or not: the same bits of one token and of many, on every backend,
/// on the threads that were set before.
#[test]
fn weights_in_cache_change_no_bit() {
    unsafe extern "C" fn count(ctx: *mut c_void, items: usize, work: Work, work_ctx: *mut c_void) {
        // SAFETY: the counter outlives the workspace's use; work takes any item.
        unsafe {
            (*ctx.cast_const().cast::<AtomicUsize>()).fetch_add(1, Ordering::Relaxed);
            (0..items).for_each(|item| work.expect("never null")(work_ctx, item));
        }
    }
    let case = Case::new();
    let (l, ws) = (case.linear, case.workspace);
    let loops = AtomicUsize::new(0);
    let ctx = (&raw const loops).cast_mut().cast::<c_void>();
    let one_token = || {
        let mut y = vec![0.0f32; M];
        // SAFETY: buffers with their lengths, handles that live.
        unsafe {
            let (x, y) = (case.x.as_ptr(), y.as_mut_ptr());
            ok(forward_int8(l, 1, x, K, K, y, M, M, ws));
            let prepared = make(|out| prepare_int8(l, 1, x, K, K, ws, out));
            ok(tritgemm_linear_forward_prepared(l, prepared, y, M, M, ws));
            tritgemm_prepared_destroy(prepared);
        }
        y
    };
    // SAFETY: as above; the counter outlives the workspace's use.
    unsafe {
        ok(tritgemm_workspace_set_parallel_for(ws, 4, Some(count), ctx));
        for name in backends() {
            let name = CString::new(name).expect("no zero");
            ok(tritgemm_workspace_pin(ws, name.as_ptr()));
            for weights_in_cache in [true, false] {
                ok(tritgemm_workspace_set_weights_in_cache(
                    ws,
                    weights_in_cache,
                ));
                let before = loops.load(Ordering::Relaxed);
                case.check(ws);
                let after = loops.load(Ordering::Relaxed);
                assert!(after > before, "the callback is still there");
                assert_eq!(one_token(), case.quantized[..M]);
            }
        }
    }
}

#[test]
fn sixteen_bit_activations() {
    let case = Case::new();
    let (len, out, l, ws) = (N * K, N * M, case.linear, case.workspace);
    let half: Vec<f16> = case.x.iter().map(|&v| f16::from_f32(v)).collect();
    let brain: Vec<bf16> = case.x.iter().map(|&v| bf16::from_f32(v)).collect();
    let half_as_f32 = half.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
    let brain_as_f32 = brain.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
    let (half, brain) = (half.as_ptr().cast(), brain.as_ptr().cast());
    let [f16, bf16] = [Float::TritgemmF16 as i32, Float::TritgemmBf16 as i32];
    // SAFETY: buffers with their lengths, handles that live.
    unsafe {
        let prepared = [
            make(|out| tritgemm_linear_prepare_int8(l, N, f16, half, len, K, 0, ws, out)),
            make(|out| tritgemm_linear_prepare_int8(l, N, bf16, brain, len, K, 0, ws, out)),
        ];
        let run = |forward: &dyn Fn(*mut f32) -> Status| {
            let mut y = vec![0.0f32; out];
            ok(forward(y.as_mut_ptr()));
            y
        };
        let plain = [
            run(&|y| tritgemm_linear_forward_int8(l, N, f16, half, len, K, y, out, M, ws)),
            run(&|y| tritgemm_linear_forward_int8(l, N, bf16, brain, len, K, y, out, M, ws)),
        ];
        for (i, x) in [half_as_f32, brain_as_f32].iter().enumerate() {
            let x = x.as_ptr();
            let wanted = run(&|y| forward_int8(l, N, x, len, K, y, out, M, ws));
            assert!(plain[i] == wanted && wanted != case.quantized);
            let x = prepared[i];
            assert!(run(&|y| tritgemm_linear_forward_prepared(l, x, y, out, M, ws)) == wanted);
            tritgemm_prepared_destroy(x);
        }
    }
}

#[test]
fn prepared_activations() {
    let case = Case::new();
    let (l, ws, len, out) = (case.linear, case.workspace, N * K, N * M);
    let mut y = vec![0.0f32; out];
    let mut sums = vec![0i32; out];
    let ones = [1.0f32; N];
    // SAFETY: buffers with their lengths, handles that live.
    unsafe {
        let (x, x_i8) = (case.x.as_ptr(), case.x_i8.as_ptr());
        let prepared = [
            make(|out| prepare_int8(l, N, x, len, K, ws, out)),
            make(|out| tritgemm_linear_prepare_f32(l, N, x, len, K, ws, out)),
            make(|out| {
                tritgemm_prepared_from_int8(N, K, x_i8, len, K, 0, ones.as_ptr(), N, 0, ws, out)
            }),
        ];
        for (prepared, wanted) in prepared.iter().zip([&case.quantized, &case.floats]) {
            assert_eq!(tritgemm_prepared_tokens(*prepared), N);
            assert_eq!(tritgemm_prepared_cols(*prepared), K);
            let y_at = y.as_mut_ptr();
            ok(tritgemm_linear_forward_prepared(
                l, *prepared, y_at, out, M, ws,
            ));
            assert!(&y == wanted);
        }
        let gemm = tritgemm_panels_gemm_i8_prepared;
        let (panels, y) = (case.panels, sums.as_mut_ptr());
        ok(gemm(panels, prepared[2], y, out, M, ws));
        assert!(sums == case.sums);
        let status = gemm(panels, prepared[1], y, out, M, ws);
        common::fails(status, Status::TritgemmInvalidArgument, "prepared as f32");
        for prepared in prepared {
            tritgemm_prepared_destroy(prepared);
        }
    }
}

/// Through a file and through memory, and after what they came of is gone.
#[test]
fn panels_without_copies() {
    let case = Case::new();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("layer.panels");
    let c_path = CString::new(path.to_str().expect("UTF-8")).expect("no zero");
    let ws = case.workspace;
    // SAFETY: buffers with their lengths, handles that live, a file that stays.
    unsafe {
        ok(tritgemm_linear_save(case.linear, c_path.as_ptr()));
        let bytes = std::fs::read(&path).expect("the file");
        // An address that is aligned to nothing.
        let shifted = [&[0], &bytes[..]].concat();
        let memory = shifted[1..].as_ptr();
        let files = [
            make(|out| tritgemm_panel_file_map(c_path.as_ptr(), 0, out)),
            make(|out| tritgemm_panel_file_map(c_path.as_ptr(), 1, out)),
            make(|out| tritgemm_panel_file_load(c_path.as_ptr(), out)),
            make(|out| tritgemm_panel_file_from_memory(memory, bytes.len(), 0, out)),
        ];
        for (i, file) in files.into_iter().enumerate() {
            let (mut rows, mut cols, mut granularity, mut bias) = (0, 0, 0, false);
            let (info, kind) = (tritgemm_panel_file_info, &mut granularity);
            ok(info(file, &mut rows, &mut cols, kind, &mut bias));
            assert_eq!((rows, cols, granularity, bias), (M, K, 2, true));
            let linear = make(|out| tritgemm_panel_file_linear(file, out));
            let panels = make(|out| tritgemm_panel_file_panels(file, out));
            tritgemm_panel_file_destroy(file);
            let (mut at, mut len) = (null(), 0);
            ok(tritgemm_panels_bytes(panels, &mut at, &mut len));
            if i == 3 {
                assert_eq!(at, memory.wrapping_add(128), "used where they are");
            }
            let lent = make(|out| tritgemm_panels_from_memory(at, len, M, K, out));
            let mut sums = vec![0i32; N * M];
            let (x, y) = (case.x_i8.as_ptr(), sums.as_mut_ptr());
            ok(tritgemm_panels_gemm_i8(
                lent,
                N,
                x,
                N * K,
                K,
                y,
                N * M,
                M,
                ws,
            ));
            assert!(sums == case.sums);
            tritgemm_panels_destroy(lent);
            tritgemm_panels_destroy(panels);
            let mut floats = vec![0.0f32; N * M];
            let (x, y) = (case.x.as_ptr(), floats.as_mut_ptr());
            ok(forward_int8(linear, N, x, N * K, K, y, N * M, M, ws));
            assert!(floats == case.quantized);
            tritgemm_linear_destroy(linear);
        }
    }
}

#[test]
fn shards_write_columns_of_one_output() {
    let case = Case::new();
    let y = std::sync::Mutex::new(vec![0.0f32; N * M]);
    let at = y
        .lock()
        .expect("not poisoned")
        .as_mut_ptr()
        .expose_provenance();
    std::thread::scope(|scope| {
        for (begin, end) in [(0, 64), (64, 192), (192, M)] {
            let case = &case;
            scope.spawn(move || {
                let y = std::ptr::with_exposed_provenance_mut::<f32>(at).wrapping_add(begin);
                // SAFETY: each thread has columns of its own and a workspace.
                unsafe {
                    let ws = make(|out| tritgemm_workspace_create(out));
                    let shard =
                        make(|out| tritgemm_linear_slice_rows(case.linear, begin, end, out));
                    assert_eq!(tritgemm_linear_rows(shard), end - begin);
                    let (x, out) = (case.x.as_ptr(), N * M - begin);
                    ok(forward_int8(shard, N, x, N * K, K, y, out, M, ws));
                    tritgemm_linear_destroy(shard);
                    tritgemm_workspace_destroy(ws);
                }
            });
        }
    });
    assert!(y.into_inner().expect("not poisoned") == case.quantized);
}

#[test]
fn codec_and_quantisers() {
    let weights: Vec<f32> = common::numbers(M * K)
        .map(|v| v as f32 / 1e6 - 8.0)
        .collect();
    let (w, len) = (weights.as_ptr(), M * K);
    // SAFETY: buffers with their lengths, out pointers, handles that live.
    unsafe {
        for granularity in [1, 2, 32, 64, 128, 256] {
            let mut count = 0;
            ok(tritgemm_scale_count(M, K, granularity, &mut count));
            let mut scales = vec![0.0f32; count];
            let (g, s) = (granularity, scales.as_mut_ptr());
            ok(tritgemm_absmean(w, len, M, K, g, s, count));
            let mut trits = vec![9i8; len];
            let (s, t) = (scales.as_ptr(), trits.as_mut_ptr());
            ok(tritgemm_ternarize(w, len, M, K, g, s, count, t, len));
            let mut size = 0;
            ok(tritgemm_packed_size(M, K, &mut size));
            let mut packed = vec![0u8; size];
            ok(tritgemm_pack(t, len, M, K, packed.as_mut_ptr(), size, 0));
            let p = packed.as_ptr();
            let matrices = [
                make(|out| tritgemm_matrix_quantize(w, len, M, K, granularity, out)),
                make(|out| tritgemm_matrix_from_trits(t, len, M, K, granularity, s, count, out)),
                make(|out| tritgemm_matrix_from_packed(p, size, M, K, granularity, s, count, out)),
            ];
            for matrix in matrices {
                let (mut at, mut n) = (null(), 0);
                ok(tritgemm_matrix_packed(matrix, &mut at, &mut n));
                assert_eq!(std::slice::from_raw_parts(at, n), packed);
                let (mut at, mut n, mut kind) = (null(), 0, 0);
                ok(tritgemm_matrix_scales(matrix, &mut kind, &mut at, &mut n));
                assert_eq!(
                    (std::slice::from_raw_parts(at, n), kind),
                    (&scales[..], granularity)
                );
                let linear = make(|out| tritgemm_linear_create(matrix, null(), 0, out));
                let group = if granularity < 32 {
                    0
                } else {
                    granularity as usize
                };
                assert_eq!(tritgemm_linear_group(linear), group);
                tritgemm_linear_destroy(linear);
                tritgemm_matrix_destroy(matrix);
            }
            let mut back = vec![9i8; len];
            ok(tritgemm_unpack(p, size, M, K, back.as_mut_ptr(), len, 0));
            assert!(back == trits);
            let (twos, mut floats) = (vec![2.0f32; M], vec![9.0f32; len]);
            let f = floats.as_mut_ptr();
            let twos = twos.as_ptr();
            ok(tritgemm_unpack_f32(p, size, M, K, twos, M, f, len, 0));
            assert!(
                floats
                    .iter()
                    .zip(&trits)
                    .all(|(&f, &t)| f == 2.0 * f32::from(t))
            );
        }
        let (mut q, mut scales) = ([0i8; 4], [0.0f32; 2]);
        let x = [1.0f32, -2.0, 0.0, 0.5];
        let (q_at, s_at) = (q.as_mut_ptr(), scales.as_mut_ptr());
        let x = x.as_ptr();
        ok(tritgemm_quantize_activations(x, 4, 2, 2, q_at, 4, s_at, 2));
        assert_eq!(
            (q, scales),
            ([64, -127, 0, 127], [2.0 / 127.0, 0.5 / 127.0])
        );
    }
}

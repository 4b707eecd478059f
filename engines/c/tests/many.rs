//! Several layers in one loop, experts, groups of activations, rotations, rows and models.

mod common;

use common::{Case, K, M, N, forward_int8, make, ok};
use half::{bf16, f16};
use tritgemm_capi::*;

/// An output of `values`, rows `stride` apart.
fn output<T>(values: &mut [T], stride: usize, float: Float, add: bool) -> Output {
    Output {
        data: values.as_mut_ptr().cast(),
        len: values.len(),
        stride,
        r#type: float as i32,
        add: add.into(),
    }
}

/// More layers than share a loop, of different rows, give the bits of each; outputs of any
/// type, strided, and added to.
#[test]
fn many_layers() {
    let case = Case::new();
    let ws = case.workspace;
    // SAFETY: buffers with their lengths, handles that live.
    unsafe {
        let shard = |i: usize| {
            let (begin, end) = [(0, M), (64, 128), (0, 64)][i % 3];
            make(|out| tritgemm_linear_slice_rows(case.linear, begin, end, out))
        };
        let layers: Vec<*mut Linear> = (0..20).map(shard).collect();
        let rows: Vec<usize> = layers.iter().map(|&l| tritgemm_linear_rows(l)).collect();
        let x = case.x.as_ptr();
        let prepared = make(|out| tritgemm_linear_prepare_f32(case.linear, 1, x, K, K, ws, out));
        for int8 in [true, false] {
            // In the memory of the other path, and of fewer tokens.
            ok(match int8 {
                true => {
                    let again = tritgemm_linear_prepare_int8_into;
                    let f32 = Float::TritgemmF32 as i32;
                    again(case.linear, N, f32, x.cast(), N * K, K, 0, ws, prepared)
                }
                false => {
                    tritgemm_linear_prepare_f32_into(case.linear, N, x, N * K, K, ws, prepared)
                }
            });
            assert_eq!(tritgemm_prepared_tokens(prepared), N);
            let single = |layer: *mut Linear, m: usize| {
                let mut y = vec![0.0f32; N * m];
                let to = y.as_mut_ptr();
                ok(tritgemm_linear_forward_prepared(
                    layer,
                    prepared,
                    to,
                    N * m,
                    m,
                    ws,
                ));
                y
            };
            let want: Vec<Vec<f32>> = layers
                .iter()
                .zip(&rows)
                .map(|(&l, &m)| single(l, m))
                .collect();
            for (gap, add) in [(0, false), (3, false), (0, true), (3, true)] {
                let before = |m: usize| (0..N * (m + gap)).map(|i| i as f32).collect::<Vec<_>>();
                let mut ys: Vec<Vec<f32>> = rows.iter().map(|&m| before(m)).collect();
                let outputs = ys.iter_mut().zip(&rows);
                let outputs: Vec<Output> = outputs
                    .map(|(y, &m)| output(y, m + gap, Float::TritgemmF32, add))
                    .collect();
                let (l, o) = (layers.as_ptr().cast(), outputs.as_ptr());
                ok(tritgemm_linear_forward_many(
                    l,
                    o,
                    layers.len(),
                    prepared,
                    ws,
                ));
                for ((y, want), &m) in ys.iter().zip(&want).zip(&rows) {
                    for (i, (&y, before)) in y.iter().zip(before(m)).enumerate() {
                        let (n, column) = (i / (m + gap), i % (m + gap));
                        let expected = match want.get(n * m + column).filter(|_| column < m) {
                            Some(want) if add => before + want,
                            Some(&want) => want,
                            None => before,
                        };
                        assert_eq!(y, expected, "{gap} {add} int8: {int8}");
                    }
                }
            }
            let (mut half, mut brain) = (vec![f16::ZERO; N * M], vec![bf16::ZERO; N * M]);
            let l = (&raw const case.linear).cast();
            for y in [
                output(&mut half, M, Float::TritgemmF16, false),
                output(&mut brain, M, Float::TritgemmBf16, false),
            ] {
                ok(tritgemm_linear_forward_many(l, &y, 1, prepared, ws));
            }
            for (i, &want) in want[0].iter().enumerate() {
                assert_eq!(
                    (half[i], brain[i]),
                    (f16::from_f32(want), bf16::from_f32(want))
                );
            }
        }
        tritgemm_prepared_destroy(prepared);
        layers
            .into_iter()
            .for_each(|layer| tritgemm_linear_destroy(layer));
    }
}

/// A layer of another K writes nothing, also where it is not in the first loop.
#[test]
fn the_seventeenth_layer_differs() {
    let case = Case::new();
    let ws = case.workspace;
    // SAFETY: buffers with their lengths, handles that live.
    unsafe {
        let (trits, one) = ([1i8; M], 1.0f32);
        let matrix = make(|out| {
            tritgemm_matrix_from_trits(trits.as_ptr(), M, M, 1, 1, &raw const one, 1, out)
        });
        let narrow = make(|out| tritgemm_linear_create(matrix, core::ptr::null(), 0, out));
        let x = case.x.as_ptr();
        let prepared = make(|out| tritgemm_linear_prepare_f32(case.linear, 1, x, K, K, ws, out));
        let mut layers = vec![case.linear; 16];
        layers.push(narrow);
        let mut ys = vec![vec![-1.5f32; M]; 17];
        let outputs = ys.iter_mut();
        let outputs: Vec<Output> = outputs
            .map(|y| output(y, M, Float::TritgemmF32, false))
            .collect();
        let (l, o) = (layers.as_ptr().cast(), outputs.as_ptr());
        let status = tritgemm_linear_forward_many(l, o, 17, prepared, ws);
        assert_eq!(status, Status::TritgemmInvalidSize);
        let text = core::ffi::CStr::from_ptr(tritgemm_last_error());
        let text = text.to_str().expect("UTF-8");
        assert!(
            text.contains(&format!("{K} columns for a matrix of 1 ")),
            "{text}"
        );
        assert!(ys.iter().flatten().all(|&y| y == -1.5));
        tritgemm_prepared_destroy(prepared);
        tritgemm_linear_destroy(narrow);
        tritgemm_matrix_destroy(matrix);
    }
}

/// Experts that are shards of one layer give the layer's values of the tokens sent to them.
#[test]
fn experts() {
    let case = Case::new();
    let ws = case.workspace;
    // SAFETY: buffers with their lengths, handles that live.
    unsafe {
        let shards = [(0, 64), (64, 128), (128, 192)];
        let shard =
            |(begin, end)| make(|out| tritgemm_linear_slice_rows(case.linear, begin, end, out));
        let layers = shards.map(shard);
        let experts = make(|out| tritgemm_experts_create(layers.as_ptr().cast(), 3, out));
        let routed = make(|out| tritgemm_routed_create(out));
        let (sent, counts) = ([3usize, 7, 7, 0, 49], [2usize, 0, 3]);
        let (s, c) = (sent.as_ptr(), counts.as_ptr());
        let (x, len) = (case.x.as_ptr(), N * K);
        for int8 in [false, true] {
            let float = Float::TritgemmF32 as i32;
            ok(match int8 {
                true => tritgemm_experts_prepare_int8(
                    experts,
                    N,
                    float,
                    x.cast(),
                    len,
                    K,
                    0,
                    s,
                    5,
                    c,
                    3,
                    ws,
                    routed,
                ),
                false => {
                    tritgemm_experts_prepare_f32(experts, N, x, len, K, s, 5, c, 3, ws, routed)
                }
            });
            assert_eq!(tritgemm_routed_rows(routed), 5);
            let whole = if int8 { &case.quantized } else { &case.floats };
            let expert = [0, 0, 2, 2, 2];
            let want: Vec<&[f32]> = (0..5)
                .map(|i| &whole[sent[i] * M + 64 * expert[i]..][..64])
                .collect();
            let mut y = vec![0.0f32; 5 * 64];
            let to = output(&mut y, 64, Float::TritgemmF32, false);
            ok(tritgemm_experts_forward(experts, routed, &to, ws));
            assert!(
                y.chunks(64).eq(want.iter().copied()),
                "forward, int8: {int8}"
            );
            let (to, mut y) = ([4usize, 0, 2, 5, 1], vec![7.0f32; 6 * 70]);
            let (t, yp) = (to.as_ptr(), y.as_mut_ptr());
            ok(tritgemm_experts_scatter(
                experts, routed, t, 5, 6, yp, 420, 70, ws,
            ));
            for (row, y) in y.chunks(70).enumerate() {
                match to.iter().position(|&to| to == row) {
                    Some(i) => assert_eq!(y[..64], *want[i]),
                    None => assert!(y.iter().all(|&y| y == 7.0)),
                }
                assert!(y[64..].iter().all(|&y| y == 7.0));
            }
            let (to, weights, mut y) = (
                [0usize, 1, 0, 1, 1],
                [0.5f32, 2.0, 3.0, 4.0, 5.0],
                vec![1.0f32; 128],
            );
            let (t, w, yp) = (to.as_ptr(), weights.as_ptr(), y.as_mut_ptr());
            let add = tritgemm_experts_add_weighted;
            ok(add(experts, routed, t, 5, w, 5, 2, yp, 128, 64, ws));
            let mut sums = vec![1.0f32; 128];
            for i in 0..5 {
                for (sum, value) in sums[64 * to[i]..].iter_mut().zip(want[i]) {
                    *sum += weights[i] * value;
                }
            }
            assert_eq!(y, sums);
        }
        tritgemm_routed_destroy(routed);
        tritgemm_experts_destroy(experts);
        layers
            .into_iter()
            .for_each(|layer| tritgemm_linear_destroy(layer));
    }
}

/// A rotated layer rotates as the core does, and keeps it in a file.
#[test]
fn rotated_inputs() {
    let case = Case::new();
    let (l, ws, x, len) = (case.linear, case.workspace, case.x.as_ptr(), N * K);
    let signs: Vec<i8> = (0..K).map(|i| if i % 3 == 0 { -1 } else { 1 }).collect();
    let mut turned = case.x.clone();
    let rotation = tritgemm::Rotation::new(4, Some(&signs)).expect("a rotation");
    for token in turned.chunks_mut(K) {
        rotation.apply(token).expect("fits");
    }
    // SAFETY: buffers with their lengths, handles that live.
    unsafe {
        let with = tritgemm_linear_with_rotation;
        let rotated = make(|out| with(l, 4, signs.as_ptr(), K, out));
        let forward = |layer: *mut Linear, x: *const f32| {
            let mut y = vec![0.0f32; N * M];
            ok(tritgemm_linear_forward_f32(
                layer,
                N,
                x,
                len,
                K,
                y.as_mut_ptr(),
                N * M,
                M,
                ws,
            ));
            y
        };
        assert_eq!(
            [l, rotated].map(|l| tritgemm_linear_rotated_block(l)),
            [0, 4]
        );
        assert_eq!(forward(rotated, x), forward(l, turned.as_ptr()));
        let mut none = std::ptr::null_mut();
        let status = with(l, 3, std::ptr::null(), 0, &mut none);
        common::fails(status, Status::TritgemmInvalidSize, "power of two");
        let status = with(l, 4, signs.as_ptr(), K - 4, &mut none);
        common::fails(status, Status::TritgemmInvalidSize, "`signs`");
        let status = with(l, 4, [0i8; K].as_ptr(), K, &mut none);
        common::fails(status, Status::TritgemmInvalidValue, "sign 0 is 0");
        assert!(none.is_null());
        tritgemm_linear_destroy(rotated);
    }
}

/// What files do not say of themselves, and what is said of it.
unsafe fn options_and_notes(dir: &std::path::Path) {
    // Two packed rows of two columns, and their scale.
    let header = r#"{"w":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]},
        "w_scale":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},
        "odd.weight":{"dtype":"U8","shape":[2],"data_offsets":[8,10]}}"#;
    let data = [&[0x15; 4][..], &2f32.to_le_bytes(), &[0; 2]].concat();
    let len = (header.len() as u64).to_le_bytes();
    let path = dir.join("hf.safetensors");
    std::fs::write(&path, [&len, header.as_bytes(), &data].concat()).expect("a file");
    let path = std::ffi::CString::new(path.to_str().expect("UTF-8")).expect("no zero");
    let open = |class: Option<&std::ffi::CStr>, rows, layout: Option<&std::ffi::CStr>, out| {
        let text = |text: Option<&std::ffi::CStr>| text.map_or(std::ptr::null(), |t| t.as_ptr());
        // SAFETY: strings that end in zero, or NULL.
        unsafe { tritgemm_model_open_with(path.as_ptr(), text(class), rows, text(layout), out) }
    };
    let mut none = std::ptr::null_mut();
    for (class, layout, says) in [
        (None, None, "no config.json"),
        (Some(c"linear"), None, "`linear_class` is \"linear\""),
        (
            Some(c"bitlinear"),
            Some(c"mips"),
            "`i2s_layout` is \"mips\"",
        ),
        (Some(c"bitlinear"), Some(c"arm"), "no I2_S matrices"),
    ] {
        let status = open(class, 0, layout, &mut none);
        assert!(none.is_null());
        let failed = match says.starts_with('`') {
            true => Status::TritgemmInvalidArgument,
            false => Status::TritgemmBadFile,
        };
        common::fails(status, failed, says);
    }
    let model = make(|out| open(Some(c"bitlinear"), 6, None, out));
    // SAFETY: a handle.
    unsafe {
        let notes = tritgemm_model_note_count(model);
        assert_eq!(notes, 1);
        let note = std::ffi::CStr::from_ptr(tritgemm_model_note(model, 0));
        assert!(note.to_string_lossy().contains("`odd.weight`"), "{note:?}");
        assert!(tritgemm_model_note(model, 1).is_null());
        assert!(tritgemm_model_note(std::ptr::null(), 0).is_null());
        let layer = make(|out| tritgemm_model_linear(model, c"w".as_ptr(), out));
        assert_eq!(tritgemm_linear_rows(layer), 6);
        tritgemm_linear_destroy(layer);
        tritgemm_model_destroy(model);
    }
}

/// Activations in groups, those that are not finite, single rows, and files of a model.
#[test]
fn groups_rows_and_models() {
    let case = Case::new();
    let (l, ws, x, len) = (case.linear, case.workspace, case.x.as_ptr(), N * K);
    let f32 = Float::TritgemmF32 as i32;
    let layer = tritgemm::Linear::load;
    let dir = std::env::temp_dir().join(format!("tritgemm-c-model-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("a new folder");
    let (one, all) = (dir.join("one"), dir.join("all"));
    let text = |path: &std::path::Path| {
        std::ffi::CString::new(path.to_str().expect("UTF-8")).expect("no zero")
    };
    // SAFETY: buffers with their lengths, handles and strings that live.
    unsafe {
        ok(tritgemm_linear_save(l, text(&one).as_ptr()));
        let core = layer(&one).expect("a layer");
        let mut core_ws = tritgemm::Workspace::new();
        let rows = tritgemm::MatRef::new(&case.x, N, K).expect("dense");
        for group in tritgemm::GroupSize::ALL {
            let mut want = vec![0.0f32; N * M];
            let to = tritgemm::MatMut::new(&mut want, N, M).expect("dense");
            let grouped = tritgemm::Grouped(rows, *group);
            core.forward_int8(grouped, to, &mut core_ws).expect("fits");
            let prepare = tritgemm_linear_prepare_int8;
            let g = group.len();
            let prepared = make(|out| prepare(l, N, f32, x.cast(), len, K, g, ws, out));
            let mut y = vec![0.0f32; N * M];
            let to = y.as_mut_ptr();
            ok(tritgemm_linear_forward_prepared(
                l,
                prepared,
                to,
                N * M,
                M,
                ws,
            ));
            assert!(y == want && y != case.quantized, "groups of {group}");
            tritgemm_prepared_destroy(prepared);
        }

        let mut bad = case.x.clone();
        bad[K] = f32::NAN;
        let (bad, mut y) = (bad.as_ptr(), vec![0.0f32; N * M]);
        let to = y.as_mut_ptr();
        ok(tritgemm_workspace_set_propagate_non_finite(ws, true));
        ok(forward_int8(l, N, bad, len, K, to, N * M, M, ws));
        for (n, (y, want)) in y.chunks(M).zip(case.quantized.chunks(M)).enumerate() {
            assert!(
                if n == 1 {
                    y.iter().all(|y| y.is_nan())
                } else {
                    y == want
                },
                "token {n}"
            );
        }
        ok(tritgemm_workspace_set_propagate_non_finite(ws, false));
        let status = forward_int8(l, N, bad, len, K, to, N * M, M, ws);
        common::fails(status, Status::TritgemmInvalidValue, "NaN");

        let (mut trits, mut values, mut want) = ([0i8; K], [0.0f32; K], [0.0f32; K]);
        ok(tritgemm_panels_unpack_row(
            case.panels,
            130,
            trits.as_mut_ptr(),
            K,
        ));
        assert_eq!(trits, case.trits[130 * K..131 * K]);
        ok(tritgemm_linear_unpack_row(l, 130, values.as_mut_ptr(), K));
        core.unpack_row(130, &mut want).expect("a row");
        assert_eq!(values, want);
        let status = tritgemm_linear_unpack_row(l, M, values.as_mut_ptr(), K);
        common::fails(status, Status::TritgemmInvalidSize, "rows 200..201");
        let status = tritgemm_panels_unpack_row(case.panels, 0, trits.as_mut_ptr(), K - 1);
        common::fails(status, Status::TritgemmInvalidSize, "`trits`");

        let shard = make(|out| tritgemm_linear_slice_rows(l, 64, 128, out));
        let (names, layers) = (
            [c"a".as_ptr(), c"b.weight".as_ptr()],
            [l.cast_const(), shard],
        );
        let save = |names: &[*const std::ffi::c_char; 2]| {
            tritgemm_model_file_save(text(&all).as_ptr(), names.as_ptr(), layers.as_ptr(), 2)
        };
        ok(save(&names));
        let path = text(&all);
        let bytes = std::fs::read(&all).expect("written");
        let models = [
            make(|out| tritgemm_model_file_load(path.as_ptr(), out)),
            make(|out| tritgemm_model_file_map(path.as_ptr(), 1, out)),
            make(|out| tritgemm_model_file_from_memory(bytes.as_ptr(), bytes.len(), 0, out)),
        ];
        // The same file as a model of any format.
        let model = make(|out| tritgemm_model_open(path.as_ptr(), out));
        assert_eq!(tritgemm_model_count(model), 2);
        let name = |i| std::ffi::CStr::from_ptr(tritgemm_model_name(model, i));
        assert_eq!([name(0), name(1)], [c"a", c"b.weight"]);
        assert!(tritgemm_model_name(model, 2).is_null());
        let mut none = std::ptr::null_mut();
        let status = tritgemm_model_linear(model, c"c".as_ptr(), &mut none);
        common::fails(status, Status::TritgemmInvalidArgument, "no tensor `c`");
        tritgemm_linear_destroy(make(|out| {
            tritgemm_model_linear(model, c"b.weight".as_ptr(), out)
        }));
        tritgemm_model_destroy(model);
        let mut none = std::ptr::null_mut();
        let status = tritgemm_model_open(c"/no/such/file".as_ptr(), &mut none);
        common::fails(status, Status::TritgemmIo, "cannot open");
        options_and_notes(&dir);
        for model in models {
            assert_eq!(tritgemm_model_file_count(model), 2);
            let name = |i| std::ffi::CStr::from_ptr(tritgemm_model_file_name(model, i));
            assert_eq!([name(0), name(1)], [c"a", c"b.weight"]);
            assert!(tritgemm_model_file_name(model, 2).is_null());
            let again = make(|out| tritgemm_model_file_linear(model, c"b.weight".as_ptr(), out));
            let mut none = std::ptr::null_mut();
            let status = tritgemm_model_file_linear(model, c"c".as_ptr(), &mut none);
            common::fails(status, Status::TritgemmInvalidArgument, "no matrix `c`");
            tritgemm_model_file_destroy(model);
            let mut y = vec![0.0f32; N * 64];
            ok(tritgemm_linear_forward_f32(
                again,
                N,
                x,
                len,
                K,
                y.as_mut_ptr(),
                N * 64,
                64,
                ws,
            ));
            let want = case.floats.chunks(M).flat_map(|row| &row[64..128]);
            assert!(y.iter().eq(want));
            tritgemm_linear_destroy(again);
        }
        common::fails(
            save(&[names[0]; 2]),
            Status::TritgemmInvalidArgument,
            "named `a`",
        );
        let file = std::fs::read(&all).expect("still there");
        assert!(file == bytes);
        // A file that says so is a bad one.
        ok(save(&[c"a".as_ptr(), c"b".as_ptr()]));
        let mut bytes = std::fs::read(&all).expect("written");
        let index = u64::from_le_bytes(bytes[24..32].try_into().expect("8 bytes")) as usize;
        bytes[index + 5 + 16 + 4] = b'a';
        let crcs = [(index..bytes.len(), 48), (0..60, 60)];
        for (of, at) in crcs {
            let crc = crc(&bytes[of]).to_le_bytes();
            bytes[at..at + 4].copy_from_slice(&crc);
        }
        let mut none = std::ptr::null_mut();
        let status = tritgemm_model_file_from_memory(bytes.as_ptr(), bytes.len(), 0, &mut none);
        common::fails(status, Status::TritgemmBadFile, "another has its name");
        tritgemm_linear_destroy(shard);
    }
    std::fs::remove_dir_all(dir).expect("removed");
}

/// The checksum of panel files.
fn crc(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| crc >> 1 ^ 0xedb8_8320 & (crc & 1).wrapping_neg();
    let byte = |crc: u32, &byte: &u8| (0..8).fold(crc ^ u32::from(byte), bit);
    !bytes.iter().fold(!0, byte)
}

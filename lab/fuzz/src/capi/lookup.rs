//! Sizes, names, instruction sets; functions of nothing.

use super::call::{Call, Slip};
use super::outcome::{Reason, agree, failed, worked};
use super::workspace::ISAS;
use crate::codec::ModeChoice;
use arbitrary::Arbitrary;
use std::ffi::{CStr, c_char};
use std::ptr::{null, null_mut};
use tritgemm::quant::QuantError;
use tritgemm::{Backend, Panels, codec};
use tritgemm_capi as c;
use tritgemm_capi::Status;

/// One call or a few.
#[derive(Arbitrary, Debug)]
pub enum Lookup {
    /// Bytes of a packed matrix.
    Packed(usize, usize, Option<Slip>),
    /// Bytes of panels.
    Panels(usize, usize, Option<Slip>),
    /// Number of scales.
    Scales(usize, usize, u8, Option<Slip>),
    /// The name of a number.
    Names(i32, usize),
    /// Whether an instruction set runs here, and pins it.
    Isa(u8),
    /// Every function that takes a handle, without one.
    Nulls(ModeChoice),
}

impl Lookup {
    /// Runs it.
    pub fn run(&self) {
        match *self {
            Lookup::Packed(rows, cols, slip) => size(slip, codec::packed_len(rows, cols), |out| {
                // SAFETY: an out pointer.
                unsafe { c::tritgemm_packed_size(rows, cols, out) }
            }),
            Lookup::Panels(rows, cols, slip) => size(slip, Panels::byte_len(rows, cols), |out| {
                // SAFETY: an out pointer.
                unsafe { c::tritgemm_panels_size(rows, cols, out) }
            }),
            Lookup::Scales(rows, cols, kind, slip) => scales(rows, cols, kind, slip),
            Lookup::Names(number, index) => names(number, index),
            Lookup::Isa(which) => isa(ISAS[usize::from(which) % ISAS.len()]),
            Lookup::Nulls(mode) => nulls(mode),
        }
    }
}

/// A number, which is computed before it is put anywhere.
fn size<E: Reason>(
    slip: Option<Slip>,
    want: Result<usize, E>,
    run: impl FnOnce(*mut usize) -> Status,
) {
    let (mut call, mut out) = (Call::new(slip), 3);
    let status = run(call.out("out", &mut out));
    let want = match want {
        Ok(_) => call.check(status, || want),
        Err(_) => agree(status, want),
    };
    assert_eq!(out, want.unwrap_or(3));
}

fn scales(rows: usize, cols: usize, kind: u8, slip: Option<Slip>) {
    let mut call = Call::new(None);
    let (kind, granularity) = super::matrix::kind(kind, &mut call);
    let run = |out| {
        // SAFETY: an out pointer.
        unsafe { c::tritgemm_scale_count(rows, cols, kind, out) }
    };
    let Some(granularity) = granularity else {
        let mut out = 3;
        call.check(run(&mut out), || Ok::<_, QuantError>(()));
        assert_eq!(out, 3);
        return;
    };
    let count = granularity.scales(rows, cols);
    size(slip, count.ok_or(QuantError::TooLarge { rows, cols }), run);
}

fn text(name: *const c_char) -> Option<String> {
    if name.is_null() {
        return None;
    }
    // SAFETY: names are strings that last.
    let text = unsafe { CStr::from_ptr(name) };
    Some(text.to_str().expect("UTF-8").to_owned())
}

fn names(number: i32, index: usize) {
    let name = text(c::tritgemm_status_name(number));
    assert_eq!(name.is_some(), (0..=12).contains(&number), "{name:?}");
    let version = text(c::tritgemm_version()).expect("a version");
    assert!(version.split('.').count() == 3 && c::tritgemm_abi_version() == 1);
    let backends: Vec<&str> = Backend::available().map(|b| b.name()).collect();
    assert_eq!(c::tritgemm_backend_count(), backends.len());
    for index in [index, index % 8] {
        let name = text(c::tritgemm_backend_name(index));
        assert_eq!(name.as_deref(), backends.get(index).copied());
        let features = tritgemm::cpu_features();
        assert_eq!(c::tritgemm_cpu_feature_count(), features.len());
        let mut present = false;
        // SAFETY: an out pointer; NULL is none.
        let [name, again] = [&mut present as *mut bool, null_mut()]
            .map(|present| text(unsafe { c::tritgemm_cpu_feature(index, present) }));
        assert_eq!(name, again);
        let want = features.get(index);
        assert_eq!(name.as_deref(), want.map(|(name, _)| *name));
        assert_eq!(present, want.is_some_and(|(_, present)| *present));
    }
}

/// The whole process follows, until it is told otherwise.
fn isa(number: i32) {
    let status = c::tritgemm_isa_check(number);
    let want = super::workspace::isa(number);
    let check = |status: Status| match &want {
        Ok(_) => worked(status),
        Err((expected, part)) => {
            assert_eq!(status, *expected);
            let text = failed(status);
            assert!(text.contains(part), "`{text}` lacks `{part}`");
        }
    };
    check(status);
    let before = text(c::tritgemm_active_backend()).expect("it runs");
    check(c::tritgemm_pin(number));
    let after = text(c::tritgemm_active_backend()).expect("it runs");
    match want {
        Ok(Some(backend)) => assert_eq!(after, backend.name()),
        Ok(None) => assert_eq!(after, Backend::best().name()),
        Err(_) => assert_eq!(after, before),
    }
    assert_eq!(after, Backend::active().expect("it runs").name());
}

fn nulls(mode: ModeChoice) {
    let none = Status::TritgemmNullPointer;
    let fails = |status: Status| {
        assert_eq!(status, none);
        assert!(failed(status).ends_with("` is NULL"));
    };
    let number = i32::from(matches!(mode, ModeChoice::Lenient));
    let (mut size, mut kind, mut bytes, mut floats) = (0, 0, null(), null());
    // SAFETY: out pointers, handles and buffers that are NULL.
    unsafe {
        // Without a row, or of rows without a column, there is nothing to point to.
        for (rows, cols) in [(0, 0), (0, 5), (5, 0)] {
            let pack = c::tritgemm_pack(null(), 0, rows, cols, null_mut(), 0, number);
            worked(pack);
            let unpack = c::tritgemm_unpack(null(), 0, rows, cols, null_mut(), 0, number);
            worked(unpack);
        }
        fails(c::tritgemm_matrix_packed(null(), &mut bytes, &mut size));
        fails(c::tritgemm_matrix_scales(
            null(),
            &mut kind,
            &mut floats,
            &mut size,
        ));
        fails(c::tritgemm_panels_bytes(null(), &mut bytes, &mut size));
        let mut flag = false;
        let info = c::tritgemm_panel_file_info(null(), &mut size, &mut 0, &mut kind, &mut flag);
        fails(info);
        fails(c::tritgemm_linear_save(null(), c"nowhere".as_ptr()));
        let zeros = [
            c::tritgemm_matrix_rows(null()),
            c::tritgemm_matrix_cols(null()),
            c::tritgemm_panels_rows(null()),
            c::tritgemm_panels_cols(null()),
            c::tritgemm_linear_rows(null()),
            c::tritgemm_linear_cols(null()),
            c::tritgemm_linear_group(null()),
            c::tritgemm_prepared_tokens(null()),
            c::tritgemm_prepared_cols(null()),
        ];
        assert_eq!((zeros, size), ([0; 9], 0));
        c::tritgemm_matrix_destroy(null_mut());
        c::tritgemm_panels_destroy(null_mut());
        c::tritgemm_linear_destroy(null_mut());
        c::tritgemm_prepared_destroy(null_mut());
        c::tritgemm_panel_file_destroy(null_mut());
        c::tritgemm_workspace_destroy(null_mut());
    }
}

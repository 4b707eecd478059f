//! Panel files of any bytes, as they are or with right checksums (first byte:
//! see below): an error, or a file that is written back byte for byte and whose
//! layer computes the same on every kernel.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use tritgemm::{Linear, Options, PanelFile, PanelFileError, Verify, Workspace};
use tritgemm_fuzz::panel_file::{derive, is_legal, repair};
use tritgemm_testing::{backends, bits, view, view_mut};

/// Bits of the first byte: repair the checksums; first make everything right
/// that follows from the shape; go through the file system too.
const REPAIR: u8 = 1;
const DERIVE: u8 = 2;
const LOAD: u8 = 0x1c;

/// Largest product that is computed, in multiply-adds.
const MAX_MACS: usize = 1 << 18;

fuzz_target!(|input: &[u8]| {
    let Some((&flags, file)) = input.split_first() else {
        return;
    };
    let mut file = file.to_vec();
    if flags & DERIVE != 0 {
        derive(&mut file);
    } else if flags & REPAIR != 0 {
        repair(&mut file);
    }
    let full = PanelFile::from_bytes(file.clone(), Verify::Full);
    let header = PanelFile::from_bytes(file.clone(), Verify::Header);
    if flags & LOAD == LOAD {
        load(&file, &full);
    }
    match (full, header) {
        (Ok(full), Ok(header)) => {
            let mut written = Vec::new();
            full.write_to(&mut written).expect("to memory");
            assert_eq!(written, file);
            assert_eq!(full.panels().as_bytes(), header.panels().as_bytes());
            multiply(full);
        }
        // Damaged panels were not looked at: products are wrong, but defined.
        (Err(PanelFileError::Checksum { section, .. }), Ok(header)) => {
            assert_eq!(section, "panels");
            multiply(header);
        }
        // Full looks at the panels first.
        (Err(full), Err(header)) => {
            if !matches!(full, PanelFileError::Checksum { .. }) {
                assert_eq!(full.to_string(), header.to_string());
            }
        }
        (Ok(_), Err(header)) => panic!("only the header: {header:?}"),
        (Err(full), Ok(_)) => panic!("only when checked in full: {full:?}"),
    }
});

/// What a file is in memory it is on the disk.
fn load(file: &[u8], want: &Result<PanelFile, PanelFileError>) {
    let dir = PathBuf::from("/dev/shm");
    let dir = if dir.is_dir() {
        dir
    } else {
        std::env::temp_dir()
    };
    let path = dir.join(format!("tritgemm-fuzz-{}", std::process::id()));
    std::fs::write(&path, file).expect("a temporary file");
    let got = PanelFile::load(&path);
    std::fs::remove_file(&path).expect("removed");
    match (got, want) {
        (Ok(got), Ok(want)) => {
            assert_eq!(got.panels().as_bytes(), want.panels().as_bytes());
            assert_eq!(got.scales(), want.scales());
            assert_eq!(got.bias().map(bits), want.bias().map(bits));
        }
        (Err(got), Err(want)) => assert_eq!(got.to_string(), want.to_string()),
        (got, want) => panic!("{got:?}, in memory {want:?}"),
    }
}

/// Where all codes are legal and padding is zero every kernel computes the
/// same; else it computes something.
fn multiply(file: PanelFile) {
    let panels = file.panels();
    let (m, k) = (panels.rows(), panels.cols());
    if m.max(1).saturating_mul(k.max(1)) > MAX_MACS / 20 {
        return;
    }
    let legal = is_legal(panels);
    let layer = match Linear::try_from(file) {
        Ok(layer) => layer,
        Err(PanelFileError::NoScales) => return,
        Err(error) => panic!("{error:?}"),
    };
    for n in [1, 17] {
        let x: Vec<f32> = (0..n * k).map(|i| (i % 251) as f32 - 125.0).collect();
        let mut first: Option<[Vec<u32>; 2]> = None;
        for backend in backends() {
            let mut ws = Workspace::with_options(Options::new().backend(backend));
            let mut y = [vec![0.0; n * m], vec![0.0; n * m]];
            let [int8, float] = &mut y;
            let x = view(&x, n, k);
            layer
                .forward_int8(x, view_mut(int8, n, m), &mut ws)
                .expect("fits");
            layer
                .forward_f32(x, view_mut(float, n, m), &mut ws)
                .expect("fits");
            let y = y.map(|y| bits(&y));
            let want = first.get_or_insert_with(|| y.clone());
            assert!(!legal || y == *want, "{m} x {k}, {n} tokens, {backend:?}");
        }
    }
}

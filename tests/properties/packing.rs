//! Panels and packed rows hold the same.

use crate::config;
use proptest::prelude::*;
use tritgemm::codec::row_bytes;
use tritgemm::{MatRef, Options, Panels, Scales, TernaryMatrix};
use tritgemm_testing::{Rng, backends, view, workspace};

proptest! {
    #![proptest_config(config(64))]

    /// Rows to panels to rows, and panels to rows to panels.
    #[test]
    fn packing_and_unpacking_undo_each_other(m in 0..300usize, k in 0..700usize, seed: u64) {
        let trits = Rng::new(seed).vec(m * k, Rng::trit);
        let scales = Scales::per_tensor(1.0);
        let matrix = TernaryMatrix::from_trits(view(&trits, m, k), scales).expect("a matrix");
        prop_assert_eq!(&matrix.to_trits().expect("memory"), &trits);
        let mut layouts = Vec::new();
        for backend in backends() {
            let ws = &workspace(Options::new().backend(backend));
            let panels = Panels::pack_on(&matrix, ws).expect("memory");
            prop_assert_eq!(&panels.to_packed(), matrix.packed());
            let packed = panels.to_packed();
            let again = Panels::from_packed(view(&packed, m, row_bytes(k)), k).expect("legal");
            prop_assert_eq!(again.as_bytes(), panels.as_bytes());
            // Rows that lie apart, with codes between them that mean nothing.
            let apart: Vec<u8> = match row_bytes(k) {
                0 => Vec::new(),
                bytes => packed.chunks(bytes).flat_map(|row| [row, &[0xff; 3]].concat()).collect(),
            };
            let apart = MatRef::with_stride(&apart, m, row_bytes(k), row_bytes(k) + 3 * usize::from(k > 0));
            let again = Panels::from_packed(apart.expect("a view"), k).expect("legal");
            prop_assert_eq!(again.as_bytes(), panels.as_bytes());
            layouts.push(panels);
        }
        prop_assert!(layouts.iter().all(|p| p.as_bytes() == layouts[0].as_bytes()));
        let bytes = layouts[0].as_bytes().to_vec();
        let taken = Panels::from_bytes(bytes, m, k).expect("as long as it must be");
        prop_assert_eq!(&taken.to_packed(), matrix.packed());
    }
}

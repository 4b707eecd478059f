//! Panels and packed rows hold the same.

use crate::config;
use proptest::prelude::*;
use tritgemm::{Options, Panels, Scales, TernaryMatrix};
use tritgemm_testing::{Rng, backends, workspace};

proptest! {
    #![proptest_config(config(64))]

    /// Rows to panels to rows, and panels to rows to panels.
    #[test]
    fn packing_and_unpacking_undo_each_other(m in 0..300usize, k in 0..700usize, seed: u64) {
        let trits = Rng::new(seed).vec(m * k, Rng::trit);
        let scales = Scales::per_tensor(1.0);
        let matrix = TernaryMatrix::from_trits(&trits, m, k, scales).expect("a matrix");
        prop_assert_eq!(&matrix.to_trits(), &trits);
        let mut layouts = Vec::new();
        for backend in backends() {
            let ws = &workspace(Options::new().backend(backend));
            let panels = Panels::pack_on(&matrix, ws).expect("memory");
            prop_assert_eq!(&panels.to_packed(), matrix.packed());
            let again = Panels::from_packed(&panels.to_packed(), m, k).expect("legal");
            prop_assert_eq!(again.as_bytes(), panels.as_bytes());
            layouts.push(panels);
        }
        prop_assert!(layouts.iter().all(|p| p.as_bytes() == layouts[0].as_bytes()));
        let bytes = layouts[0].as_bytes().to_vec();
        let taken = Panels::from_bytes(bytes, m, k).expect("as long as it must be");
        prop_assert_eq!(&taken.to_packed(), matrix.packed());
    }
}

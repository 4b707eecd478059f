//! The straight-through estimator: what it refuses, and what becomes of NaN.

use tritgemm::nn::{LayerError, ste};

#[test]
fn wrong_lengths_are_named_and_nothing_is_written() {
    let weights = [0.4, 0.6, -1.0];
    let (mut short, mut long) = ([7.0; 2], [7.0; 4]);
    let results = [
        ("out", 2, ste::forward(&weights, &mut short)),
        (
            "grad_out",
            1,
            ste::backward(&weights, &[1.0], &mut [7.0; 3]),
        ),
        ("grad_in", 4, ste::backward(&weights, &[1.0; 3], &mut long)),
    ];
    for (argument, len, result) in results {
        let error = LayerError::Length {
            argument,
            len,
            expected: 3,
        };
        assert_eq!(
            error.to_string(),
            format!("`{argument}` has length {len}, expected 3")
        );
        assert_eq!(result, Err(error));
    }
    assert_eq!((short, long), ([7.0; 2], [7.0; 4]));
}

/// One NaN for every NaN: the payload must not depend on the instruction set.
#[test]
fn nan_is_the_canonical_nan() {
    let nans = [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0xffff_ffff_u32];
    for len in [1, 40] {
        for nan in nans {
            let mut weights = vec![0.6; len];
            weights[len - 1] = f32::from_bits(nan);
            let mut wanted = vec![1.0_f32.to_bits(); len];
            wanted[len - 1] = 0x7fc0_0000;
            let mut out = vec![0.0; len];
            ste::forward(&weights, &mut out).expect("fits");
            ste::forward_in_place(&mut weights);
            for found in [out, weights] {
                let found: Vec<u32> = found.iter().map(|v| v.to_bits()).collect();
                assert_eq!(found, wanted, "{nan:#x}");
            }
        }
    }
}

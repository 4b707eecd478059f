//! Encoding, decoding and packing.

use super::*;

#[test]
fn codec_i8_and_f32() {
    let mut rng = rng(1);
    for cols in 0..300usize {
        for offset in 0..3 {
            let bytes = cols.div_ceil(4);
            let mut trits: Vec<i8> = (0..cols + offset)
                .map(|_| rng.random_range(-1..=1))
                .collect();
            for illegal in [false, true] {
                if illegal && cols > 0 {
                    trits[offset + rng.random_range(0..cols)] = rng.random_range(2..=127);
                    trits[offset + rng.random_range(0..cols)] = rng.random_range(-128..=-2);
                }
                let [got, want] = SETS.map(|set| {
                    let mut out = vec![0x5au8; bytes + offset + 8];
                    // SAFETY: the slices hold cols and ceil(cols / 4).
                    let legal = unsafe {
                        (set.codec.encode)(
                            trits[offset..].as_ptr(),
                            cols,
                            out[offset..].as_mut_ptr(),
                        )
                    };
                    (out, legal)
                });
                assert_eq!(got, want, "encode {cols} columns");
                assert!(illegal || got.1);
            }
            for legal in [false, true] {
                let mut packed: Vec<u8> = (0..bytes + offset).map(|_| rng.random()).collect();
                if legal {
                    // Beyond `cols`, codes are not looked at.
                    for byte in &mut packed {
                        *byte &= !(*byte & 0x55) << 1 | 0x55;
                    }
                    if let Some(last) = packed.last_mut()
                        && cols % 4 != 0
                    {
                        *last |= 0xff >> (2 * (cols % 4));
                    }
                }
                let packed = &packed[offset..];
                let [got, want] = SETS.map(|set| {
                    let mut out = vec![77i8; cols + offset + 8];
                    // SAFETY: the slices hold ceil(cols / 4) and cols.
                    let legal = unsafe {
                        (set.codec.decode_i8)(packed.as_ptr(), cols, out[offset..].as_mut_ptr())
                    };
                    (out, legal)
                });
                assert_eq!(got, want, "decode_i8 {cols} columns");
                assert!(!legal || got.1);
                for scale in [0.37f32, -2.5, f32::NAN, -0.0, f32::INFINITY] {
                    let [got, want] = SETS.map(|set| {
                        let mut out = vec![77f32; cols + offset + 8];
                        // SAFETY: as above.
                        let legal = unsafe {
                            let dst = out[offset..].as_mut_ptr();
                            (set.codec.decode_f32)(packed.as_ptr(), cols, scale, dst)
                        };
                        let bits: Vec<u32> = out.iter().map(|w| w.to_bits()).collect();
                        (bits, legal)
                    });
                    assert_eq!(got, want, "decode_f32 {cols} columns, scale {scale}");
                }
            }
        }
    }
}

/// One bad value at each place of a row is seen; one beyond the row is not.
#[test]
fn codec_sees_each_place() {
    const COLS: usize = 131;
    let codec = NEON.codec;
    for bad in 0..COLS {
        let mut trits = vec![0i8; COLS];
        trits[bad] = 2;
        let mut out = vec![0u8; COLS.div_ceil(4)];
        // SAFETY: the slices hold COLS and ceil(COLS / 4).
        assert!(!unsafe { (codec.encode)(trits.as_ptr(), COLS, out.as_mut_ptr()) });
        assert!(out.iter().all(|&byte| byte == 0));
        out[bad / 4] |= 0xc0 >> (2 * (bad % 4));
        assert_eq!(DECODE[out[bad / 4] as usize], [0; 4]);
        trits.fill(9);
        // SAFETY: as above.
        assert!(!unsafe { (codec.decode_i8)(out.as_ptr(), COLS, trits.as_mut_ptr()) });
        assert!(trits.iter().all(|&trit| trit == 0));
        // SAFETY: as above; the first `bad` columns alone are legal.
        assert!(unsafe { (codec.decode_i8)(out.as_ptr(), bad, trits.as_mut_ptr()) });
    }
}

#[test]
fn pack_panel() {
    let mut rng = rng(3);
    for rows in 1..=PANEL_ROWS {
        for (bytes, depth, gap) in [
            (0, 3, 1),
            (1, 1, 0),
            (3, 3, 2),
            (15, 15, 0),
            (16, 18, 0),
            (17, 21, 5),
            (31, 33, 1),
            (64, 66, 0),
            (100, 102, 7),
        ] {
            let stride = bytes + gap;
            // Exactly what may be read: the last row has no gap.
            let src = panels(stride * (rows - 1) + bytes, None, &mut rng);
            let [got, want] = SETS.map(|set| {
                let mut out = vec![0x77u8; depth * PANEL_ROWS + 9];
                // SAFETY: `rows` rows of `bytes`; `depth` strips.
                unsafe {
                    let dst = out[1..].as_mut_ptr();
                    (set.codec.pack_panel)(src.as_ptr(), stride, rows, bytes, dst, depth);
                }
                out
            });
            assert_eq!(got, want, "{rows} rows of {bytes} bytes into {depth}");
        }
    }
}

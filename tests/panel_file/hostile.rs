//! Damaged and forged files.

use crate::{Dir, crc32, parse, small};
use std::error::Error;
use std::fs;
use tritgemm::{MatrixError, PanelFile, PanelFileError, Scales, Verify};

#[test]
fn every_change_of_a_byte_is_found() {
    let good = small();
    parse(&good).expect("undamaged");
    let dir = Dir::new();
    let path = dir.join("damaged");
    for at in 0..good.len() {
        let mut damaged = good.clone();
        for flip in 1..=255u8 {
            damaged[at] = good[at] ^ flip;
            assert!(parse(&damaged).is_err(), "byte {at} ^ {flip:#x} in memory");
        }
        fs::write(&path, &damaged).expect("written");
        let error = PanelFile::load(&path).expect_err("damaged");
        assert!(!matches!(error, PanelFileError::Io { .. }), "{error}");
        let unverified = PanelFile::from_bytes(damaged, Verify::Header);
        let in_panels = (128..128 + 192).contains(&at);
        assert_eq!(
            unverified.is_ok(),
            in_panels,
            "byte {at} with Verify::Header"
        );
    }
}

#[test]
fn the_damaged_section_is_named() {
    let good = small();
    for (at, name) in [
        (128, "panels"),
        (319, "panels"),
        (320, "scales"),
        (335, "bias"),
    ] {
        let mut damaged = good.clone();
        damaged[at] ^= 4;
        match parse(&damaged) {
            Err(PanelFileError::Checksum {
                section,
                stored,
                computed,
            }) => {
                assert_eq!(section, name);
                let text = PanelFileError::Checksum {
                    section,
                    stored,
                    computed,
                }
                .to_string();
                assert!(text.contains(&format!("{stored:08x}")), "{text}");
                assert!(text.contains(&format!("{computed:08x}")), "{text}");
                assert!(text.contains(name), "{text}");
            }
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn a_damaged_header_shows_both_checksums() {
    let mut damaged = small();
    damaged[20] ^= 4;
    let wanted = u32::from_le_bytes(damaged[124..128].try_into().expect("four bytes"));
    let found = crc32(&damaged[..124]);
    match parse(&damaged) {
        Err(error @ PanelFileError::HeaderChecksum { stored, computed }) => {
            assert_eq!((stored, computed), (wanted, found));
            let text = error.to_string();
            assert!(text.contains(&format!("{stored:08x}")), "{text}");
            assert!(text.contains(&format!("{computed:08x}")), "{text}");
            assert!(error.source().is_none());
        }
        other => panic!("{other:?}"),
    }
    let text = parse(&small()[..335]).expect_err("cut").to_string();
    assert_eq!(text, "panel file of 335 bytes, expected 336");
}

/// Sizes that fit one by one, and overflow when they are added or multiplied:
/// the panels, the panels with the scales, with the bias, the scales alone.
#[cfg(target_pointer_width = "64")]
#[test]
fn sections_that_do_not_fit_are_too_large() {
    // Rows of 12 columns take 3 bytes, scales and bias 4 each.
    let panels_fit = (1 << 63) / 3 - 64;
    let cases: [(u64, u64, u32, u32); 5] = [
        (panels_fit + 128, 12, 0, 0),
        (panels_fit, 12, 2, 0),
        (panels_fit, 12, 1, 1),
        (1 << 62, 0, 2, 0),
        (1 << 62, 0, 1, 1),
    ];
    for (rows, cols, granularity, flags) in cases {
        let result = forged(&[
            (16, &rows.to_le_bytes()),
            (24, &cols.to_le_bytes()),
            (40, &granularity.to_le_bytes()),
            (44, &flags.to_le_bytes()),
        ]);
        match result {
            Err(error @ PanelFileError::TooLarge { .. }) => {
                let shape = format!("{rows} x {cols}");
                assert!(error.to_string().contains(&shape), "{error}");
            }
            other => panic!("{rows}, {granularity}, {flags}: {other:?}"),
        }
    }
}

#[test]
fn every_truncation_and_every_addition_is_found() {
    let good = small();
    let dir = Dir::new();
    let path = dir.join("cut");
    let cut_or_long = (0..good.len()).chain([good.len() + 1, good.len() + 64, 3 * good.len()]);
    for len in cut_or_long {
        let mut bytes = good.clone();
        bytes.resize(len, 0);
        fs::write(&path, &bytes).expect("written");
        for result in [parse(&bytes), PanelFile::load(&path)] {
            let wanted = if len < 128 { 128 } else { good.len() as u64 };
            match result {
                Err(PanelFileError::Length {
                    len: found,
                    expected,
                }) => {
                    assert_eq!((found, expected), (len as u64, wanted));
                }
                other => panic!("{len} bytes: {other:?}"),
            }
        }
        #[cfg(feature = "mmap")]
        // SAFETY: the file is this test's, and the mapping is gone right away.
        let map = unsafe { PanelFile::map(&path, Verify::Full) };
        #[cfg(feature = "mmap")]
        assert!(map.is_err(), "{len} bytes mapped");
    }
}

#[test]
fn what_is_no_panel_file_is_called_so() {
    for bytes in [
        &b"\x93NUMPY"[..],
        b"T RITPANL",
        &[0; 500],
        b"TRITPANK",
        b"X",
    ] {
        let error = parse(bytes).expect_err("no panel file");
        assert!(matches!(error, PanelFileError::NotPanelFile), "{error}");
        assert!(error.to_string().contains("TRITPANL"), "{error}");
    }
}

/// `small()` with other header bytes and a checksum that vouches for them.
fn forge(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = small();
    for &(at, value) in changes {
        bytes[at..][..value.len()].copy_from_slice(value);
    }
    let crc = crc32(&bytes[..124]).to_le_bytes();
    bytes[124..128].copy_from_slice(&crc);
    bytes
}

/// What reading a forgery gives, the same from memory and from a file.
fn forged(changes: &[(usize, &[u8])]) -> Result<PanelFile, PanelFileError> {
    let bytes = forge(changes);
    let dir = Dir::new();
    let path = dir.join("forged");
    fs::write(&path, &bytes).expect("written");
    let (parsed, loaded) = (parse(&bytes), PanelFile::load(&path));
    let texts = [&parsed, &loaded].map(|r| r.as_ref().map_err(ToString::to_string).err());
    assert_eq!(texts[0], texts[1], "from memory and from a file");
    parsed
}

#[test]
fn other_versions_are_named() {
    match forged(&[(8, &3u32.to_le_bytes())]) {
        Err(
            e @ PanelFileError::Version {
                found: 3,
                supported: 1,
            },
        ) => {
            assert_eq!(e.to_string(), "panel file of version 3, supported is 1");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn forged_headers_are_found_field_by_field() {
    forged(&[]).expect("nothing forged");
    // Field, offset, length in bytes, and its value in `small()`.
    let fields = [
        ("header length", 12, 4, 128),
        ("depth", 32, 8, 3),
        ("panels offset", 48, 8, 128),
        ("scales offset", 56, 8, 320),
        ("scales count", 64, 8, 2),
        ("bias offset", 72, 8, 328),
        ("bias count", 80, 8, 2),
        ("file length", 88, 8, 336),
        ("rotated block", 112, 4, 0),
        ("reserved", 116, 8, 0),
    ];
    for (name, at, len, right) in fields {
        for wrong in [right + 1, right + 64, right ^ (1 << 31), u64::MAX] {
            let wrong = if len == 4 { wrong & 0xffff_ffff } else { wrong };
            match forged(&[(at, &wrong.to_le_bytes()[..len])]) {
                Err(e @ PanelFileError::Field { .. }) => {
                    let text = format!("header field `{name}` is {wrong}, expected {right}");
                    assert_eq!(e.to_string(), text);
                }
                other => panic!("{name} = {wrong}: {other:?}"),
            }
        }
    }
    match forged(&[(44, &[1, 0, 0, 0x80])]) {
        Err(PanelFileError::Field {
            name: "flags",
            found: 0x8000_0001,
            expected: 1,
        }) => {}
        other => panic!("{other:?}"),
    }
    for code in [3u32, 4, 31, 63, 65, 512, u32::MAX] {
        match forged(&[(40, &code.to_le_bytes())]) {
            Err(e @ PanelFileError::Granularity { .. }) => {
                assert!(
                    e.to_string().contains(&format!("is {code}, expected 0")),
                    "{e}"
                );
            }
            other => panic!("granularity {code}: {other:?}"),
        }
    }
}

/// Shapes that overflow something, or ask for more memory than there is.
#[test]
fn hostile_shapes_are_errors() {
    let sizes = [
        0,
        1,
        64,
        1 << 24,
        1 << 32,
        1 << 40,
        1 << 56,
        1 << 57,
        1 << 58,
        1 << 62,
        u64::MAX,
    ];
    for rows in sizes {
        for cols in sizes.into_iter().chain([(1 << 24) - 1]) {
            for granularity in [0u32, 1, 2, 32, 64, 128, 256] {
                for flags in [0u32, 1] {
                    let result = parse(&forge(&[
                        (16, &rows.to_le_bytes()),
                        (24, &cols.to_le_bytes()),
                        (40, &granularity.to_le_bytes()),
                        (44, &flags.to_le_bytes()),
                    ]));
                    // Depth, offsets or length are those of a 2 x 9 matrix.
                    assert!(result.is_err(), "{rows} x {cols}, {granularity}, {flags}");
                }
            }
        }
    }
    for (rows, cols) in [(u64::MAX, 9u64), (1 << 56, (1 << 24) - 1)] {
        let result = forged(&[(16, &rows.to_le_bytes()), (24, &cols.to_le_bytes())]);
        assert!(
            matches!(result, Err(PanelFileError::TooLarge { .. })),
            "{result:?}"
        );
    }
    let result = forged(&[(24, &(1u64 << 24).to_le_bytes())]);
    let too_many = MatrixError::TooManyColumns { cols: 1 << 24 };
    assert!(matches!(result, Err(PanelFileError::Matrix(e)) if e == too_many));
}

/// A header that is right in itself and promises far more than the file has:
/// the memory taken must follow the file.
#[test]
fn a_promise_of_terabytes_takes_no_memory() {
    let (rows, cols) = (1u64 << 30, 16_000u64);
    let depth = 4002u64;
    let panels = rows / 64 * depth * 64;
    let len = 128 + panels;
    let dir = Dir::new();
    let path = dir.join("promise");
    let u64s = [
        (16, rows),
        (24, cols),
        (32, depth),
        (40, 0),
        (56, len),
        (64, 0),
        (72, len),
        (80, 0),
        (88, len),
    ]
    .map(|(at, value)| (at, value.to_le_bytes()));
    let bytes = forge(&u64s.each_ref().map(|(at, value)| (*at, value.as_slice())));
    fs::write(&path, &bytes).expect("written");
    for result in [parse(&bytes), PanelFile::load(&path)] {
        match result {
            Err(PanelFileError::Length { len: 336, expected }) => assert_eq!(expected, len),
            // More than a pointer of 32 bits reaches.
            Err(PanelFileError::TooLarge { .. }) if cfg!(target_pointer_width = "32") => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn scales_in_a_file_are_checked_like_any() {
    let mut bytes = small();
    bytes[320..324].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let section = crc32(&bytes[320..328]).to_le_bytes();
    bytes[100..104].copy_from_slice(&section);
    let header = crc32(&bytes[..124]).to_le_bytes();
    bytes[124..128].copy_from_slice(&header);
    let result = parse(&bytes);
    let wanted = MatrixError::Scale {
        index: 0,
        value: f32::INFINITY,
    };
    assert!(
        matches!(&result, Err(PanelFileError::Matrix(e)) if *e == wanted),
        "{result:?}"
    );

    let panels = parse(&small()).expect("read").panels().clone();
    let result = PanelFile::new(panels.clone(), Some(Scales::per_row(vec![1.0; 3])), None);
    let wanted = |argument, len| MatrixError::Length {
        argument,
        len,
        expected: 2,
    };
    assert_eq!(result.err(), Some(wanted("scales", 3)));
    let result = PanelFile::new(panels, None, Some(vec![0.0; 5]));
    assert_eq!(result.err(), Some(wanted("bias", 5)));
}

/// A source without a length of its own, which does not end where it should.
#[cfg(target_os = "linux")]
#[test]
fn endless_files_are_errors() {
    let error = PanelFile::load("/dev/zero").expect_err("endless zeros");
    assert!(matches!(error, PanelFileError::NotPanelFile), "{error}");
}

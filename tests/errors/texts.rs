//! Texts: an error that wraps another says what that says, and those that no
//! call on this machine gives.

use crate::assert_names;
use tritgemm::codec::CodecError;
use tritgemm::nn::LayerError;
use tritgemm::quant::QuantError;
use tritgemm::{
    Error, GemmError, Granularity, GroupSize, Incomplete, Isa, IsaError, MatrixError, OutOfMemory,
    PanelFileError, ViewError,
};

#[track_caller]
fn says(wrapped: &[&dyn std::error::Error], inner: &dyn std::error::Error) {
    for error in wrapped {
        assert_eq!(error.to_string(), inner.to_string(), "{error:?}");
    }
}

#[test]
fn an_error_that_wraps_another_says_what_it_says() {
    let isa = || IsaError::NotBuilt { isa: Isa::Neon };
    says(
        &[
            &CodecError::Isa(isa()),
            &GemmError::Isa(isa()),
            &LayerError::Isa(isa()),
            &LayerError::Gemm(GemmError::Isa(isa())),
            &LayerError::Matrix(MatrixError::Codec(CodecError::Isa(isa()))),
            &Error::from(isa()),
            &Error::from(CodecError::Isa(isa())),
        ],
        &isa(),
    );
    let memory = OutOfMemory { bytes: 4096 };
    assert_names(&memory, &[&4096]);
    says(
        &[
            &QuantError::Memory(memory),
            &MatrixError::Memory(memory),
            &GemmError::Memory(memory),
            &PanelFileError::Memory(memory),
            &LayerError::Memory(memory),
            &Error::from(memory),
            &Error::from(LayerError::Memory(memory)),
        ],
        &memory,
    );
    let incomplete = Incomplete { done: 3, items: 5 };
    let gemm = || GemmError::Incomplete(incomplete);
    let matrix = MatrixError::Incomplete(incomplete);
    says(&[&gemm(), &matrix, &Error::from(gemm())], &incomplete);
    let quant = || QuantError::TooLarge { rows: 3, cols: 5 };
    assert_names(&quant(), &[&3, &5]);
    says(
        &[
            &MatrixError::Quant(quant()),
            &GemmError::Quant(quant()),
            &LayerError::Quant(quant()),
            &Error::from(quant()),
        ],
        &quant(),
    );
    let matrix = || MatrixError::Length {
        argument: "bias",
        len: 2,
        expected: 3,
    };
    says(
        &[
            &PanelFileError::Matrix(matrix()),
            &LayerError::Matrix(matrix()),
            &Error::from(matrix()),
            &Error::from(PanelFileError::Matrix(matrix())),
        ],
        &matrix(),
    );
    let view = ViewError::Stride { cols: 3, stride: 2 };
    says(&[&Error::from(view)], &view);
}

/// A wrong length and a wrong shape read the same, whatever was asked for.
#[test]
fn wrong_lengths_and_shapes_read_alike() {
    let (argument, len, expected) = ("scales", 2, 3);
    let lengths: [&dyn std::error::Error; 5] = [
        &CodecError::Length {
            argument,
            len,
            expected,
        },
        &QuantError::Length {
            argument,
            len,
            expected,
        },
        &MatrixError::Length {
            argument,
            len,
            expected,
        },
        &GemmError::Length {
            argument,
            len,
            expected,
        },
        &LayerError::Length {
            argument,
            len,
            expected,
        },
    ];
    for error in lengths {
        assert_eq!(error.to_string(), "`scales` has length 2, expected 3");
    }
    let (argument, shape, expected) = ("y", [1, 2], [3, 4]);
    let shapes: [&dyn std::error::Error; 3] = [
        &CodecError::Shape {
            argument,
            shape,
            expected,
        },
        &QuantError::Shape {
            argument,
            shape,
            expected,
        },
        &LayerError::Shape {
            argument,
            shape,
            expected,
        },
    ];
    for error in shapes {
        assert_eq!(error.to_string(), "`y` is 1 x 2, expected 3 x 4");
    }
}

/// The umbrella hides no cause: a file's error still gives the system's.
#[test]
fn the_source_is_that_of_the_error_inside() {
    let inner = || PanelFileError::Io {
        path: "nowhere".into(),
        source: std::io::ErrorKind::NotFound.into(),
    };
    let source = |error: &dyn std::error::Error| error.source().map(ToString::to_string);
    assert!(source(&inner()).is_some());
    assert_eq!(source(&Error::from(inner())), source(&inner()));
    assert_eq!(source(&Error::from(OutOfMemory { bytes: 1 })), None);
}

/// A size that does not fit a `usize` is none to print.
#[test]
fn more_than_can_be_addressed() {
    let error = OutOfMemory { bytes: usize::MAX };
    assert_eq!(
        error.to_string(),
        "out of memory: more bytes than can be addressed"
    );
}

/// A machine that has every feature never says that one is missing.
#[test]
fn missing_features_are_all_named() {
    let error = IsaError::MissingFeatures {
        isa: Isa::Avx512,
        missing: vec!["avx512bw", "avx512vl"],
    };
    assert_names(&error, &[&"avx512", &"avx512bw, avx512vl"]);
}

#[test]
fn granularities_read_as_in_a_sentence() {
    let texts = [
        (Granularity::PerTensor, "per tensor"),
        (Granularity::PerRow, "per row"),
        (Granularity::PerGroup(GroupSize::G128), "per group of 128"),
    ];
    for (granularity, text) in texts {
        assert_eq!(granularity.to_string(), text);
    }
}

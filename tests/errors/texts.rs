//! Texts: an error that wraps another says what that says, and those that no
//! call on this machine gives.

use crate::assert_names;
use std::error::Error;
use tritgemm::codec::CodecError;
use tritgemm::nn::{BitLinearError, RmsNormError};
use tritgemm::quant::QuantError;
use tritgemm::{
    GemmError, Granularity, GroupSize, Incomplete, Isa, IsaError, MatrixError, OutOfMemory,
    PanelFileError, SliceError,
};

#[track_caller]
fn says(wrapped: &[&dyn Error], inner: &dyn Error) {
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
            &BitLinearError::Isa(isa()),
            &BitLinearError::Gemm(GemmError::Isa(isa())),
            &BitLinearError::Matrix(MatrixError::Codec(CodecError::Isa(isa()))),
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
            &SliceError::Memory(memory),
            &PanelFileError::Memory(memory),
            &RmsNormError::Memory(memory),
            &BitLinearError::Memory(memory),
        ],
        &memory,
    );
    let incomplete = Incomplete { done: 3, items: 5 };
    says(&[&GemmError::Incomplete(incomplete)], &incomplete);
    let quant = || QuantError::TooLarge { rows: 3, cols: 5 };
    assert_names(&quant(), &[&3, &5]);
    says(
        &[
            &MatrixError::Quant(quant()),
            &GemmError::Quant(quant()),
            &BitLinearError::Quant(quant()),
        ],
        &quant(),
    );
    let matrix = || MatrixError::BiasLength { rows: 3, len: 2 };
    says(
        &[
            &PanelFileError::Matrix(matrix()),
            &BitLinearError::Matrix(matrix()),
        ],
        &matrix(),
    );
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

//! What the error types of every operation share.

/// `From` for the variants of an error that only wrap another error.
macro_rules! from_variants {
    ($error:ty: $($variant:ident($source:ty)),+) => {$(
        impl From<$source> for $error {
            fn from(error: $source) -> Self {
                Self::$variant(error)
            }
        }
    )+};
}

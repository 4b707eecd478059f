//! What every product does with the caller's rows: checks them, copies them where they
//! cannot be used in place, and runs in a workspace.

use crate::buffer::{Number, Rows, reads_slice};
use crate::status::{Error, choose};
use crate::workspace::{Stage, Workspace};
use half::{bf16, f16};
use tritgemm::{GemmError, MatMut, MatRef, Panels};

/// The type of floats.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Float {
    /// `float`.
    TritgemmF32 = 0,
    /// IEEE half precision.
    TritgemmF16 = 1,
    /// bfloat16.
    TritgemmBf16 = 2,
}

impl Float {
    /// What a number of the caller's stands for.
    pub(crate) fn from_number(number: i32) -> Result<Self, Error> {
        let all = [Self::TritgemmF32, Self::TritgemmF16, Self::TritgemmBf16];
        choose("float", number, &all.map(|float| (float as i32, float)))
    }
}

/// Evaluates `$body` with `$T` as the type that the number of a [`Float`] stands for.
macro_rules! of_float {
    ($number:expr, $T:ident => $body:expr) => {
        match $crate::product::Float::from_number($number)? {
            $crate::product::Float::TritgemmF32 => {
                type $T = f32;
                $body
            }
            $crate::product::Float::TritgemmF16 => {
                type $T = half::f16;
                $body
            }
            $crate::product::Float::TritgemmBf16 => {
                type $T = half::bf16;
                $body
            }
        }
    };
}
pub(crate) use of_float;

/// Rows of the caller's: pointer, length and stride in elements.
pub(crate) type Raw<P> = (P, usize, usize);

/// Elements of activations.
pub(crate) trait Input: Number {
    /// Where rows are copied to.
    fn copies(stage: &mut Stage) -> &mut Vec<Self>;
}

/// Elements of outputs.
pub(crate) trait Output: Number {
    /// Where rows are copied from.
    fn copies(stage: &mut Stage) -> &mut Vec<Self>;
}

macro_rules! copies {
    ($($trait:ident for $number:ty: $copies:ident;)+) => {$(
        impl $trait for $number {
            fn copies(stage: &mut Stage) -> &mut Vec<Self> {
                &mut stage.$copies
            }
        }
    )+};
}

copies! {
    Input for i8: x_i8;
    Input for f32: x_f32;
    Input for f16: x_f16;
    Input for bf16: x_bf16;
    Output for i32: y_i32;
    Output for f32: y_f32;
    Output for f16: y_f16;
    Output for bf16: y_bf16;
}

/// Runs a product of `panels` with `tokens` rows of `x`.
///
/// # Safety
/// Preconditions 1 and 2 of the crate's documentation.
pub(crate) unsafe fn of_rows<X: Input, Y: Output>(
    panels: &Panels,
    tokens: usize,
    x: Raw<*const X>,
    y: Raw<*mut Y>,
    workspace: *mut Workspace,
    run: impl FnOnce(MatRef<'_, X>, MatMut<'_, Y>, &mut tritgemm::Workspace) -> Result<(), GemmError>,
) -> Result<(), Error> {
    let k = panels.cols();
    // SAFETY: the caller's preconditions.
    unsafe {
        let x = Rows::new("x", x, [tokens, k])?;
        into_rows(panels, tokens, Some(&x), y, workspace, |y, stage, ws| {
            let x = MatRef::new(x.read(X::copies(stage))?, tokens, k)?;
            Ok(run(x, y, ws)?)
        })
    }
}

/// Runs a product of `panels` with activations that were prepared.
///
/// # Safety
/// Preconditions 1 and 2 of the crate's documentation.
pub(crate) unsafe fn of_prepared<Y: Output>(
    panels: &Panels,
    tokens: usize,
    y: Raw<*mut Y>,
    workspace: *mut Workspace,
    run: impl FnOnce(MatMut<'_, Y>, &mut tritgemm::Workspace) -> Result<(), GemmError>,
) -> Result<(), Error> {
    // SAFETY: the caller's preconditions.
    unsafe {
        into_rows::<i8, Y>(panels, tokens, None, y, workspace, |y, _, ws| {
            Ok(run(y, ws)?)
        })
    }
}

/// Runs a product whose output is `tokens` rows of the caller's.
///
/// # Safety
/// Preconditions 1 and 2 of the crate's documentation.
unsafe fn into_rows<X: Input, Y: Output>(
    panels: &Panels,
    tokens: usize,
    x: Option<&Rows<'_, X>>,
    (y, len, stride): Raw<*mut Y>,
    workspace: *mut Workspace,
    run: impl FnOnce(MatMut<'_, Y>, &mut Stage, &mut tritgemm::Workspace) -> Result<(), Error>,
) -> Result<(), Error> {
    let m = panels.rows();
    let y = Rows::new("y", (y.cast_const(), len, stride), [tokens, m])?;
    let weights = [reads_slice("panels", panels.as_bytes())];
    // SAFETY: the caller's preconditions.
    unsafe {
        Workspace::with(workspace, |inner| {
            let mut copies = core::mem::take(Y::copies(&mut inner.stage));
            let done = y.write(&mut copies, x, &weights, |y| {
                let y = MatMut::new(y, tokens, m)?;
                run(y, &mut inner.stage, &mut inner.products)
            });
            *Y::copies(&mut inner.stage) = copies;
            done
        })
    }
}

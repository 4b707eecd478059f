//! Root mean square normalisation.

use crate::Activation;
use crate::kernels::auto::norm::InverseRms;
use crate::memory::{self, OutOfMemory};
use crate::threads::all_rows;
use std::fmt;

/// Why [`RmsNorm`] cannot be made or run.
#[non_exhaustive]
#[derive(Clone, PartialEq, Debug)]
pub enum RmsNormError {
    /// The gain has no values.
    NoFeatures,
    /// Epsilon cannot keep the root away from zero.
    Eps {
        /// Its value.
        eps: f32,
    },
    /// An input is not a whole number of tokens.
    Tokens {
        /// The argument.
        argument: &'static str,
        /// How many values it holds.
        found: usize,
        /// Values a token.
        features: usize,
    },
    /// A slice has the wrong length.
    Length {
        /// The argument.
        argument: &'static str,
        /// How many values it holds.
        found: usize,
        /// How many it should hold.
        expected: usize,
    },
    /// Memory ran out.
    Memory(OutOfMemory),
}

impl fmt::Display for RmsNormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFeatures => write!(f, "`gain` is empty, expected one value a feature"),
            Self::Eps { eps } => write!(f, "`eps` is {eps}, expected a finite value above 0"),
            Self::Tokens {
                argument,
                found,
                features,
            } => write!(
                f,
                "`{argument}` holds {found} values, expected a multiple of {features}"
            ),
            Self::Length {
                argument,
                found,
                expected,
            } => write!(f, "`{argument}` holds {found} values, expected {expected}"),
            Self::Memory(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for RmsNormError {}

from_variants!(RmsNormError: Memory(OutOfMemory));

/// RMSNorm with a gain: `y[k] = x[k] / sqrt(mean(x^2) + eps) * gain[k]` over
/// the K features of a token.
///
/// Zhang and Sennrich, "Root Mean Square Layer Normalization"
/// (<https://arxiv.org/abs/1910.07467>). Inputs and outputs are f32, f16 or
/// bf16; the mean is summed in f64, in an order that depends on K alone, and
/// `y` computed in f32. A NaN makes its token's outputs NaN, an infinity its
/// own output NaN and the token's others 0; other tokens are not affected.
///
/// ```
/// use tritgemm::nn::RmsNorm;
/// let norm = RmsNorm::new(vec![1.0, 2.0])?;
/// let mut y = [0.0_f32; 4];
/// norm.forward(&[3.0, 3.0, /* next token */ 0.0, 0.0], &mut y)?;
/// assert!((y[0] - 1.0).abs() < 1e-6 && (y[1] - 2.0).abs() < 1e-6);
/// assert_eq!(y[2..], [0.0, 0.0]);
/// # Ok::<(), tritgemm::nn::RmsNormError>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct RmsNorm {
    gain: Vec<f32>,
    eps: f32,
}

impl RmsNorm {
    /// The epsilon of [`RmsNorm::new`].
    pub const EPS: f32 = 1e-6;

    /// A layer with this gain `[features]` and epsilon 1e-6.
    ///
    /// # Errors
    /// If the gain is empty.
    pub fn new(gain: Vec<f32>) -> Result<Self, RmsNormError> {
        if gain.is_empty() {
            return Err(RmsNormError::NoFeatures);
        }
        let eps = Self::EPS;
        Ok(Self { gain, eps })
    }

    /// The same layer with another epsilon.
    ///
    /// # Errors
    /// If `eps` is not a finite value above 0.
    pub fn with_eps(self, eps: f32) -> Result<Self, RmsNormError> {
        if !(eps.is_finite() && eps > 0.0) {
            return Err(RmsNormError::Eps { eps });
        }
        Ok(Self { eps, ..self })
    }

    /// Values a token.
    pub fn features(&self) -> usize {
        self.gain.len()
    }

    /// The gain `[features]`.
    pub fn gain(&self) -> &[f32] {
        &self.gain
    }

    /// The gain `[features]`, to be trained.
    pub fn gain_mut(&mut self) -> &mut [f32] {
        &mut self.gain
    }

    /// Epsilon.
    pub fn eps(&self) -> f32 {
        self.eps
    }

    /// Normalises `x` `[tokens, features]` into `y` of the same shape.
    ///
    /// # Errors
    /// If `x` is not a whole number of tokens or `y` not as long.
    pub fn forward<T: Activation>(&self, x: &[T], y: &mut [T]) -> Result<(), RmsNormError> {
        let tokens = self.check_tokens("x", x.len())?;
        check_length("y", y.len(), x.len())?;
        let width = self.features();
        all_rows(
            (x, width),
            (y, width),
            &mut vec![(); tokens],
            |_, x, y, ()| {
                T::normalize(x, InverseRms::new(self.inverse_rms(x)), &self.gain, y);
                true
            },
        );
        Ok(())
    }

    /// [`forward`](Self::forward) in place.
    ///
    /// # Errors
    /// If `x` is not a whole number of tokens.
    pub fn forward_in_place<T: Activation>(&self, x: &mut [T]) -> Result<(), RmsNormError> {
        self.check_tokens("x", x.len())?;
        crate::threads::each_row_mut(x, self.features(), |_, x| {
            let inverse = InverseRms::new(self.inverse_rms(x));
            T::normalize_in_place(x, inverse, &self.gain);
        });
        Ok(())
    }

    /// The gradients: from `grad_y` `[tokens, features]` at input `x`, writes
    /// `grad_x` `[tokens, features]` and adds to `grad_gain` `[features]`.
    ///
    /// With `r = 1 / sqrt(mean(x^2) + eps)` and `g = grad_y * gain`:
    /// `grad_x = r g - x r^3 mean(g x)`, in f64 up to the last rounding, and
    /// `grad_gain += sum over tokens of grad_y * x r`, in order of tokens.
    ///
    /// # Errors
    /// If `x` is not a whole number of tokens or another slice has the wrong
    /// length.
    ///
    /// ```
    /// use tritgemm::nn::RmsNorm;
    /// let norm = RmsNorm::new(vec![1.0; 2])?;
    /// let (x, grad_y) = ([3.0_f32, 4.0], [3.0, 4.0]);
    /// let (mut grad_x, mut grad_gain) = ([0.0; 2], [0.0; 2]);
    /// norm.backward(&x, &grad_y, &mut grad_x, &mut grad_gain)?;
    /// // Scaling x changes nothing, so a gradient along x vanishes (but for eps).
    /// assert!(grad_x.iter().all(|g| g.abs() < 1e-6));
    /// # Ok::<(), tritgemm::nn::RmsNormError>(())
    /// ```
    pub fn backward<T: Activation>(
        &self,
        x: &[T],
        grad_y: &[T],
        grad_x: &mut [T],
        grad_gain: &mut [f32],
    ) -> Result<(), RmsNormError> {
        let tokens = self.check_tokens("x", x.len())?;
        check_length("grad_y", grad_y.len(), x.len())?;
        check_length("grad_x", grad_x.len(), x.len())?;
        check_length("grad_gain", grad_gain.len(), self.features())?;
        let width = self.features();
        let mut inverses = memory::zeroed::<f64>(tokens)?;
        all_rows(
            (x, width),
            (grad_x, width),
            &mut inverses,
            |token, x, grad_x, inverse| {
                let grad_y = &grad_y[token * width..(token + 1) * width];
                let r = self.inverse_rms(x);
                let mean = T::gained_dot(grad_y, &self.gain, x) / width as f64;
                T::input_gradient(grad_y, &self.gain, x, (r, r * r * r * mean), grad_x);
                *inverse = r;
                true
            },
        );
        // Tokens in order, whatever ran above in parallel.
        for ((x, grad_y), inverse) in x.chunks(width).zip(grad_y.chunks(width)).zip(inverses) {
            T::add_gain_gradient(grad_y, x, InverseRms::new(inverse), grad_gain);
        }
        Ok(())
    }

    fn inverse_rms<T: Activation>(&self, x: &[T]) -> f64 {
        let mean = T::sum_of_squares(x) / x.len() as f64;
        1.0 / (mean + f64::from(self.eps)).sqrt()
    }

    fn check_tokens(&self, argument: &'static str, found: usize) -> Result<usize, RmsNormError> {
        let features = self.features();
        if found.is_multiple_of(features) {
            return Ok(found / features);
        }
        Err(RmsNormError::Tokens {
            argument,
            found,
            features,
        })
    }
}

fn check_length(argument: &'static str, found: usize, expected: usize) -> Result<(), RmsNormError> {
    if found == expected {
        return Ok(());
    }
    Err(RmsNormError::Length {
        argument,
        found,
        expected,
    })
}

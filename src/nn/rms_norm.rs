//! Root mean square normalisation.

use crate::activation::Activation;
use crate::kernels::auto::norm::InverseRms;
use crate::kernels::environment::in_default;
use crate::memory;
use crate::mismatch::{check_length, check_shape};
use crate::nn::error::LayerError;
use crate::threads::{all_rows, each_row_mut};
use crate::view::{MatMut, MatRef};

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
/// use tritgemm::{MatMut, MatRef};
/// let norm = RmsNorm::new(vec![1.0, 2.0])?;
/// let (x, mut y) = ([3.0, 3.0, /* next token */ 0.0, 0.0], [0.0_f32; 4]);
/// norm.forward(MatRef::new(&x, 2, 2)?, MatMut::new(&mut y, 2, 2)?)?;
/// assert!((y[0] - 1.0).abs() < 1e-6 && (y[1] - 2.0).abs() < 1e-6);
/// assert_eq!(y[2..], [0.0, 0.0]);
/// # Ok::<(), tritgemm::Error>(())
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
    pub fn new(gain: Vec<f32>) -> Result<Self, LayerError> {
        if gain.is_empty() {
            return Err(LayerError::NoFeatures);
        }
        let eps = Self::EPS;
        Ok(Self { gain, eps })
    }

    /// The same layer with another epsilon.
    ///
    /// # Errors
    /// If `eps` is not a finite value above 0.
    pub fn with_eps(self, eps: f32) -> Result<Self, LayerError> {
        in_default(|| {
            if !(eps.is_finite() && eps > 0.0) {
                return Err(LayerError::Eps { eps });
            }
            Ok(Self { eps, ..self })
        })
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
    /// If `x` does not have a column a feature, or `y` has another shape.
    pub fn forward<T: Activation>(
        &self,
        x: MatRef<'_, T>,
        mut y: MatMut<'_, T>,
    ) -> Result<(), LayerError> {
        let (tokens, features) = (x.rows(), self.features());
        check_shape("x", [tokens, x.cols()], [tokens, features])?;
        check_shape("y", [y.rows(), y.cols()], [tokens, features])?;
        all_rows(
            x.strided(),
            y.strided(),
            &mut vec![(); tokens],
            |_, x, y, ()| {
                let (x, y) = (&x[..features], &mut y[..features]);
                T::normalize(x, InverseRms::new(self.inverse_rms(x)), &self.gain, y);
                true
            },
        );
        Ok(())
    }

    /// [`forward`](Self::forward) in place.
    ///
    /// # Errors
    /// If `x` does not have a column a feature.
    pub fn forward_in_place<T: Activation>(&self, mut x: MatMut<'_, T>) -> Result<(), LayerError> {
        let (tokens, features) = (x.rows(), self.features());
        check_shape("x", [tokens, x.cols()], [tokens, features])?;
        let (x, stride) = x.strided();
        each_row_mut(x, stride, |_, x| {
            let x = &mut x[..features];
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
    /// If `x` does not have a column a feature, another matrix has another
    /// shape, `grad_gain` the wrong length, or memory runs out.
    ///
    /// ```
    /// use tritgemm::nn::RmsNorm;
    /// use tritgemm::{MatMut, MatRef};
    /// let norm = RmsNorm::new(vec![1.0; 2])?;
    /// let (x, grad_y) = (MatRef::new(&[3.0_f32, 4.0], 1, 2)?, MatRef::new(&[3.0, 4.0], 1, 2)?);
    /// let (mut grad_x, mut grad_gain) = ([0.0; 2], [0.0; 2]);
    /// norm.backward(x, grad_y, MatMut::new(&mut grad_x, 1, 2)?, &mut grad_gain)?;
    /// // Scaling x changes nothing, so a gradient along x vanishes (but for eps).
    /// assert!(grad_x.iter().all(|g| g.abs() < 1e-6));
    /// # Ok::<(), tritgemm::Error>(())
    /// ```
    pub fn backward<T: Activation>(
        &self,
        x: MatRef<'_, T>,
        grad_y: MatRef<'_, T>,
        mut grad_x: MatMut<'_, T>,
        grad_gain: &mut [f32],
    ) -> Result<(), LayerError> {
        in_default(|| {
            let (tokens, features) = (x.rows(), self.features());
            let expected = [tokens, features];
            check_shape("x", [tokens, x.cols()], expected)?;
            check_shape("grad_y", [grad_y.rows(), grad_y.cols()], expected)?;
            check_shape("grad_x", [grad_x.rows(), grad_x.cols()], expected)?;
            check_length("grad_gain", grad_gain.len(), features)?;
            let mut inverses = memory::zeroed::<f64>(tokens)?;
            all_rows(
                x.strided(),
                grad_x.strided(),
                &mut inverses,
                |token, x, grad_x, inverse| {
                    let (x, grad_x) = (&x[..features], &mut grad_x[..features]);
                    let grad_y = grad_y.row(token);
                    let r = self.inverse_rms(x);
                    let mean = T::gained_dot(grad_y, &self.gain, x) / features as f64;
                    T::input_gradient(grad_y, &self.gain, x, (r, r * r * r * mean), grad_x);
                    *inverse = r;
                    true
                },
            );
            // Tokens in order, whatever ran above in parallel.
            for (token, inverse) in inverses.into_iter().enumerate() {
                let (grad_y, x) = (grad_y.row(token), x.row(token));
                T::add_gain_gradient(grad_y, x, InverseRms::new(inverse), grad_gain);
            }
            Ok(())
        })
    }

    fn inverse_rms<T: Activation>(&self, x: &[T]) -> f64 {
        let mean = T::sum_of_squares(x) / x.len() as f64;
        1.0 / (mean + f64::from(self.eps)).sqrt()
    }
}

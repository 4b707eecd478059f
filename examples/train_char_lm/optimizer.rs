//! AdamW and gradient clipping.

use super::model::Parameter;

/// The Euclidean norm of all gradients together.
pub fn global_norm(grads: &[Vec<f32>]) -> f64 {
    let squares = grads.iter().flatten().map(|&g| f64::from(g) * f64::from(g));
    squares.sum::<f64>().sqrt()
}

/// Scales all gradients so that their global norm is at most `max`; returns
/// what it was.
pub fn clip_global_norm(grads: &mut [Vec<f32>], max: f64) -> f64 {
    let norm = global_norm(grads);
    if norm > max {
        let factor = (max / norm) as f32;
        for grad in grads.iter_mut().flatten() {
            *grad *= factor;
        }
    }
    norm
}

/// Adam with decoupled weight decay (Loshchilov and Hutter,
/// <https://arxiv.org/abs/1711.05101>).
pub struct AdamW {
    pub weight_decay: f32,
    step: i32,
    /// Running means of the gradients and of their squares.
    moments: Vec<(Vec<f32>, Vec<f32>)>,
}

impl AdamW {
    const BETA1: f32 = 0.9;
    const BETA2: f32 = 0.95;
    const EPS: f32 = 1e-8;

    pub fn new(weight_decay: f32) -> Self {
        Self {
            weight_decay,
            step: 0,
            moments: Vec::new(),
        }
    }

    pub fn step(&mut self, parameters: Vec<Parameter<'_>>, grads: &[Vec<f32>], rate: f32) {
        assert_eq!(
            parameters.len(),
            grads.len(),
            "a gradient for each parameter"
        );
        if self.moments.is_empty() {
            let zeros = |grad: &Vec<f32>| (vec![0.0; grad.len()], vec![0.0; grad.len()]);
            self.moments = grads.iter().map(zeros).collect();
        }
        self.step += 1;
        let unbias1 = 1.0 / (1.0 - Self::BETA1.powi(self.step));
        let unbias2 = 1.0 / (1.0 - Self::BETA2.powi(self.step));
        for ((parameter, grad), (mean, square)) in
            parameters.into_iter().zip(grads).zip(&mut self.moments)
        {
            assert_eq!(parameter.values.len(), grad.len());
            let decay = if parameter.decays {
                rate * self.weight_decay
            } else {
                0.0
            };
            let moments = mean.iter_mut().zip(square);
            for ((value, &grad), (mean, square)) in
                parameter.values.iter_mut().zip(grad).zip(moments)
            {
                *mean += (1.0 - Self::BETA1) * (grad - *mean);
                *square += (1.0 - Self::BETA2) * (grad * grad - *square);
                let update = *mean * unbias1 / ((*square * unbias2).sqrt() + Self::EPS);
                *value -= rate * update + decay * *value;
            }
        }
    }
}

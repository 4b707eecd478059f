//! 400 steps at a high learning rate: with gated gradients every loss and
//! weight stays finite and the loss falls; without the gate the gradients grow.
//!
//! The reference implementation once went to NaN near step 150 when gradients
//! passed the clamp unbounded.

use crate::model::{Config, LayerBackward, Model, cross_entropy};
use crate::optimizer::global_norm;
use crate::text::Text;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tritgemm::nn::{BitLinear, BitLinearGrads, LayerError};
use tritgemm::{MatRef, Workspace};

const STEPS: usize = 400;
const BATCH: usize = 32;
const CONTEXT: usize = 8;
/// Plain gradient descent, nothing clipped: what the gradients do is what the
/// weights see.
const RATE: f32 = 0.5;

/// The straight-through gradient without the clamp's derivative: a dense
/// product, everywhere.
fn ungated(
    layer: &mut BitLinear,
    x: MatRef<'_, f32>,
    grad_y: MatRef<'_, f32>,
    mut grads: BitLinearGrads<'_>,
    ws: &mut Workspace,
) -> Result<(), LayerError> {
    let cols = layer.in_features();
    if let Some(weight) = grads.weight.take() {
        weight.fill(0.0);
        for token in 0..x.rows() {
            for (row, &g) in weight.chunks_mut(cols).zip(grad_y.row(token)) {
                for (w, &x) in row.iter_mut().zip(x.row(token)) {
                    *w += g * x;
                }
            }
        }
    }
    layer.backward(x, grad_y, grads, ws)
}

struct Run {
    losses: Vec<f64>,
    norms: Vec<f64>,
    finite: bool,
}

fn train(layer_backward: LayerBackward) -> Run {
    let text = Text::new(include_str!("default.txt"), CONTEXT).unwrap();
    let config = Config {
        vocabulary: text.alphabet.len(),
        context: CONTEXT,
        embedding: 8,
        width: 48,
        blocks: 2,
    };
    let mut model = Model::new(config, 3).unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    let mut run = Run {
        losses: Vec::new(),
        norms: Vec::new(),
        finite: true,
    };
    for _ in 0..STEPS {
        let (contexts, targets) = text.batch(BATCH, CONTEXT, &mut rng);
        let Ok(activations) = model.forward(&contexts) else {
            run.finite = false;
            return run;
        };
        let (loss, grad_logits) = cross_entropy(&activations.logits, &targets);
        let grads = model
            .backward(&contexts, &activations, &grad_logits, layer_backward)
            .unwrap();
        run.losses.push(loss);
        run.norms.push(global_norm(&grads));
        for (parameter, grad) in model.parameters().into_iter().zip(&grads) {
            for (value, grad) in parameter.values.iter_mut().zip(grad) {
                *value -= RATE * grad;
                run.finite &= value.is_finite();
            }
        }
    }
    run
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn the_gate_keeps_training_at_a_high_rate_stable() {
    let gated = train(BitLinear::backward);
    assert!(gated.finite, "every weight stays finite");
    assert_eq!(gated.losses.len(), STEPS);
    assert!(gated.losses.iter().all(|loss| loss.is_finite()));
    let (first, last) = (mean(&gated.losses[..20]), mean(&gated.losses[STEPS - 50..]));
    assert!(last < 0.9 * first, "the loss falls from {first} to {last}");

    let free = train(ungated);
    let largest = |run: &Run| run.norms.iter().copied().fold(0.0, f64::max);
    assert!(
        !free.finite || mean(&free.norms) > 1.2 * mean(&gated.norms),
        "mean gradient norm without the gate {}, with it {}",
        mean(&free.norms),
        mean(&gated.norms)
    );
    assert!(
        !free.finite || largest(&free) > 1.2 * largest(&gated),
        "largest gradient norm without the gate {}, with it {}",
        largest(&free),
        largest(&gated)
    );
}

//! A character model of BitLinear and RMSNorm layers:
//!
//! ```text
//! characters [batch][context] -> embeddings, side by side
//!   h = first(norm(embeddings))
//!   h = h + down(relu(up(norm(h))))    for each block
//!   logits = head(norm(h))             of the next character
//! ```
//! Every matrix but the table of embeddings is ternary.

use tritgemm::nn::{BitLinear, BitLinearGrads, LayerError, RmsNorm};
use tritgemm::{Linear, MatMut, MatRef, Workspace};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Clone, Copy)]
pub struct Config {
    /// Different characters.
    pub vocabulary: usize,
    /// Characters that the model sees.
    pub context: usize,
    /// Values a character is embedded in.
    pub embedding: usize,
    /// Values between layers.
    pub width: usize,
    /// Residual blocks.
    pub blocks: usize,
}

struct Block {
    norm: RmsNorm,
    up: BitLinear,
    down: BitLinear,
}

pub struct Model {
    pub config: Config,
    embeddings: Vec<f32>,
    first_norm: RmsNorm,
    first: BitLinear,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: BitLinear,
    ws: Workspace,
}

/// One parameter and whether weight decay applies to it.
pub struct Parameter<'a> {
    pub values: &'a mut [f32],
    pub decays: bool,
}

/// What the forward pass leaves for the backward pass.
#[derive(Default)]
pub struct Activations {
    embedded: Vec<f32>,
    normed: Vec<f32>,
    blocks: Vec<BlockActivations>,
    /// What goes into the last norm.
    h: Vec<f32>,
    head_in: Vec<f32>,
    pub logits: Vec<f32>,
}

#[derive(Default)]
struct BlockActivations {
    h: Vec<f32>,
    normed: Vec<f32>,
    /// After the relu: zero where its input was not positive.
    hidden: Vec<f32>,
}

/// How a layer gets its gradients: [`BitLinear::backward`], but for tests that
/// want to see what another rule does.
pub type LayerBackward = fn(
    &mut BitLinear,
    MatRef<'_, f32>,
    MatRef<'_, f32>,
    BitLinearGrads<'_>,
    &mut Workspace,
) -> std::result::Result<(), LayerError>;

fn gains(features: usize) -> Result<RmsNorm> {
    Ok(RmsNorm::new(vec![1.0; features])?)
}

fn normalised(norm: &RmsNorm, x: &[f32]) -> Result<Vec<f32>> {
    let mut y = vec![0.0; x.len()];
    let (tokens, features) = (x.len() / norm.features(), norm.features());
    let y_view = MatMut::new(&mut y, tokens, features)?;
    norm.forward(MatRef::new(x, tokens, features)?, y_view)?;
    Ok(y)
}

fn product(layer: &mut BitLinear, x: &[f32], batch: usize, ws: &mut Workspace) -> Result<Vec<f32>> {
    let mut y = vec![0.0; batch * layer.out_features()];
    let x = MatRef::new(x, batch, layer.in_features())?;
    let y_view = MatMut::new(&mut y, batch, layer.out_features())?;
    layer.forward_training(x, y_view, ws)?;
    Ok(y)
}

impl Model {
    pub fn new(config: Config, seed: u64) -> Result<Self> {
        let Config {
            vocabulary,
            context,
            embedding,
            width,
            blocks,
        } = config;
        // A ternary layer is the library's seeded noise here, too.
        let mut table = BitLinear::new(vec![0.0; vocabulary * embedding], vocabulary, embedding)?;
        table.perturb(seed, 1.0);
        let blocks = (0..blocks as u64).map(|i| {
            Ok(Block {
                norm: gains(width)?,
                up: BitLinear::kaiming_uniform(2 * width, width, seed + 10 + 2 * i)?,
                down: BitLinear::kaiming_uniform(width, 2 * width, seed + 11 + 2 * i)?,
            })
        });
        Ok(Self {
            config,
            embeddings: table.weight().to_vec(),
            first_norm: gains(context * embedding)?,
            first: BitLinear::kaiming_uniform(width, context * embedding, seed + 1)?,
            blocks: blocks.collect::<Result<_>>()?,
            norm: gains(width)?,
            head: BitLinear::kaiming_uniform(vocabulary, width, seed + 2)?
                .with_bias(vec![0.0; vocabulary])?,
            ws: Workspace::new(),
        })
    }

    /// Everything that is trained, in the order of [`backward`](Self::backward).
    pub fn parameters(&mut self) -> Vec<Parameter<'_>> {
        let weight = |values| Parameter {
            values,
            decays: true,
        };
        let plain = |values| Parameter {
            values,
            decays: false,
        };
        let mut all = vec![
            plain(self.embeddings.as_mut_slice()),
            plain(self.first_norm.gain_mut()),
            weight(self.first.weight_mut()),
        ];
        for block in &mut self.blocks {
            all.push(plain(block.norm.gain_mut()));
            all.push(weight(block.up.weight_mut()));
            all.push(weight(block.down.weight_mut()));
        }
        all.push(plain(self.norm.gain_mut()));
        let (head, bias) = self.head.parameters_mut();
        all.push(weight(head));
        all.extend(bias.map(plain));
        all
    }

    /// The logits `[batch][vocabulary]` after `contexts` `[batch][context]`.
    pub fn forward(&mut self, contexts: &[usize]) -> Result<Activations> {
        let batch = contexts.len() / self.config.context;
        let ws = &mut self.ws;
        let embedded = embed(&self.embeddings, self.config.embedding, contexts);
        let normed = normalised(&self.first_norm, &embedded)?;
        let mut h = product(&mut self.first, &normed, batch, ws)?;
        let mut blocks = Vec::new();
        for block in &mut self.blocks {
            let normed = normalised(&block.norm, &h)?;
            let mut hidden = product(&mut block.up, &normed, batch, ws)?;
            relu(&mut hidden);
            let down = product(&mut block.down, &hidden, batch, ws)?;
            let sum = h.iter().zip(&down).map(|(h, d)| h + d).collect();
            let h = std::mem::replace(&mut h, sum);
            blocks.push(BlockActivations { h, normed, hidden });
        }
        let head_in = normalised(&self.norm, &h)?;
        let logits = product(&mut self.head, &head_in, batch, ws)?;
        Ok(Activations {
            embedded,
            normed,
            blocks,
            h,
            head_in,
            logits,
        })
    }

    /// The gradients of every parameter from that of the logits.
    pub fn backward(
        &mut self,
        contexts: &[usize],
        activations: &Activations,
        grad_logits: &[f32],
        layer_backward: LayerBackward,
    ) -> Result<Vec<Vec<f32>>> {
        let batch = contexts.len() / self.config.context;
        let ws = &mut self.ws;
        let mut layer = |layer: &mut BitLinear, x: &[f32], grad_y: &[f32]| -> Result<_> {
            let (rows, cols) = (layer.out_features(), layer.in_features());
            let mut grad_x = vec![0.0; batch * cols];
            let mut grad_weight = vec![0.0; rows * cols];
            let mut grad_bias = layer.bias().map(|bias| vec![0.0; bias.len()]);
            let grads = BitLinearGrads {
                x: Some(MatMut::new(&mut grad_x, batch, cols)?),
                weight: Some(&mut grad_weight),
                bias: grad_bias.as_deref_mut(),
            };
            let (x, grad_y) = (
                MatRef::new(x, batch, cols)?,
                MatRef::new(grad_y, batch, rows)?,
            );
            layer_backward(layer, x, grad_y, grads, ws)?;
            Ok((grad_x, grad_weight, grad_bias))
        };
        let norm = |norm: &RmsNorm, x: &[f32], grad_y: &[f32]| -> Result<_> {
            let (mut grad_x, mut grad_gain) = (vec![0.0; x.len()], vec![0.0; norm.features()]);
            let (tokens, features) = (x.len() / norm.features(), norm.features());
            let view = |data| MatRef::new(data, tokens, features);
            let grad_x_view = MatMut::new(&mut grad_x, tokens, features)?;
            norm.backward(view(x)?, view(grad_y)?, grad_x_view, &mut grad_gain)?;
            Ok((grad_x, grad_gain))
        };

        // From the last to the first, to be turned around at the end.
        let mut grads = Vec::new();
        let (grad, weight, bias) = layer(&mut self.head, &activations.head_in, grad_logits)?;
        grads.extend(bias);
        grads.push(weight);
        let (mut grad_h, gain) = norm(&self.norm, &activations.h, &grad)?;
        grads.push(gain);
        for (block, saved) in self.blocks.iter_mut().zip(&activations.blocks).rev() {
            let (mut grad, down, _) = layer(&mut block.down, &saved.hidden, &grad_h)?;
            for (grad, &hidden) in grad.iter_mut().zip(&saved.hidden) {
                *grad = if hidden > 0.0 { *grad } else { 0.0 };
            }
            let (grad, up, _) = layer(&mut block.up, &saved.normed, &grad)?;
            let (grad, gain) = norm(&block.norm, &saved.h, &grad)?;
            for (grad_h, grad) in grad_h.iter_mut().zip(grad) {
                *grad_h += grad;
            }
            grads.extend([down, up, gain]);
        }
        let (grad, weight, _) = layer(&mut self.first, &activations.normed, &grad_h)?;
        let (grad, gain) = norm(&self.first_norm, &activations.embedded, &grad)?;
        grads.extend([weight, gain]);
        let mut table = vec![0.0; self.embeddings.len()];
        let width = self.config.embedding;
        for (grad, &character) in grad.chunks(width).zip(contexts) {
            for (sum, grad) in table[character * width..].iter_mut().zip(grad) {
                *sum += grad;
            }
        }
        grads.push(table);
        grads.reverse();
        Ok(grads)
    }

    /// The model for inference: packed weights alone.
    pub fn freeze(&mut self) -> Result<Frozen> {
        let mut blocks = Vec::new();
        for block in &mut self.blocks {
            blocks.push(FrozenBlock {
                norm: block.norm.clone(),
                up: block.up.prepare_for_inference()?.clone(),
                down: block.down.prepare_for_inference()?.clone(),
            });
        }
        Ok(Frozen {
            config: self.config,
            embeddings: self.embeddings.clone(),
            first_norm: self.first_norm.clone(),
            first: self.first.prepare_for_inference()?.clone(),
            blocks,
            norm: self.norm.clone(),
            head: self.head.prepare_for_inference()?.clone(),
            ws: Workspace::new(),
        })
    }
}

/// The mean cross entropy of logits `[batch][vocabulary]` and its gradient.
pub fn cross_entropy(logits: &[f32], targets: &[usize]) -> (f64, Vec<f32>) {
    let vocabulary = logits.len() / targets.len();
    let mut grad = vec![0.0; logits.len()];
    let mut loss = 0.0;
    let rows = logits.chunks(vocabulary).zip(grad.chunks_mut(vocabulary));
    for ((logits, grad), &target) in rows.zip(targets) {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
        loss += sum.ln() - f64::from(logits[target] - max);
        for (i, (grad, &logit)) in grad.iter_mut().zip(logits).enumerate() {
            let hit = if i == target { 1.0 } else { 0.0 };
            let probability = f64::from(logit - max).exp() / sum;
            *grad = ((probability - hit) / targets.len() as f64) as f32;
        }
    }
    (loss / targets.len() as f64, grad)
}

fn embed(table: &[f32], width: usize, characters: &[usize]) -> Vec<f32> {
    let rows = characters
        .iter()
        .map(|&c| &table[c * width..(c + 1) * width]);
    rows.flatten().copied().collect()
}

fn relu(x: &mut [f32]) {
    for x in x {
        *x = x.max(0.0);
    }
}

struct FrozenBlock {
    norm: RmsNorm,
    up: Linear,
    down: Linear,
}

/// A model of packed layers.
pub struct Frozen {
    config: Config,
    embeddings: Vec<f32>,
    first_norm: RmsNorm,
    first: Linear,
    blocks: Vec<FrozenBlock>,
    norm: RmsNorm,
    head: Linear,
    ws: Workspace,
}

/// Which product a frozen model runs on.
#[derive(Clone, Copy, PartialEq)]
pub enum Path {
    /// f32 activations: the training forward pass, bit for bit.
    F32,
    /// int8 activations (W1.58A8).
    Int8,
}

impl Frozen {
    /// The logits `[batch][vocabulary]` after `contexts` `[batch][context]`.
    pub fn forward(&mut self, contexts: &[usize], path: Path) -> Result<Vec<f32>> {
        let batch = contexts.len() / self.config.context;
        let ws = &mut self.ws;
        let mut product = |layer: &Linear, x: &[f32]| -> Result<Vec<f32>> {
            let mut y = vec![0.0; batch * layer.out_features()];
            let x = MatRef::new(x, batch, layer.in_features())?;
            let y_view = MatMut::new(&mut y, batch, layer.out_features())?;
            match path {
                Path::F32 => layer.forward_f32(x, y_view, ws)?,
                Path::Int8 => layer.forward_int8(x, y_view, ws)?,
            }
            Ok(y)
        };
        let embedded = embed(&self.embeddings, self.config.embedding, contexts);
        let mut h = product(&self.first, &normalised(&self.first_norm, &embedded)?)?;
        for block in &self.blocks {
            let mut hidden = product(&block.up, &normalised(&block.norm, &h)?)?;
            relu(&mut hidden);
            for (h, down) in h.iter_mut().zip(product(&block.down, &hidden)?) {
                *h += down;
            }
        }
        product(&self.head, &normalised(&self.norm, &h)?)
    }

    /// Bytes of packed weights.
    pub fn packed_bytes(&self) -> usize {
        let blocks = self.blocks.iter().flat_map(|b| [&b.up, &b.down]);
        let layers = blocks.chain([&self.first, &self.head]);
        layers.map(|layer| layer.panels().as_bytes().len()).sum()
    }
}

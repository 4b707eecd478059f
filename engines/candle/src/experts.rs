//! The experts of a mixture.

use crate::float::{self, Float, Work, on_tokens};
use crate::gradient::Gradient;
use crate::layer::only;
use crate::op::Computed;
use crate::product::by_kind;
use crate::routing::Routing;
use crate::settings::{Settings, macs};
use crate::{ActivationMode, BitLinear, LoadError};
use candle_core::{CpuStorage, D, DType, Device, Error, Result, Tensor};
use std::sync::Arc;
use tritgemm::{Experts, Grouped, Linear, MatMut, MatRef, Routes, Workspace};

/// The experts of a mixture: linear layers of ternary weights with one M, one K
/// and one kind of scales, each of which a router sends some of the tokens to.
///
/// `indices`, u32 `[N, k]`, are the k experts of each of N tokens. The input is
/// `[N, K]`, the same for all experts of a token, or `[N, k, K]`, one for each.
/// All experts run in one parallel loop; what they compute is, bit for bit, what
/// each layer computes by itself.
///
/// Cloning shares the weights.
///
/// The block of a Mixtral or Qwen model:
///
/// ```
/// use candle_core::{D, DType, Device, Module, Result, Tensor};
/// use candle_nn::{Linear, VarBuilder, linear_no_bias, ops::softmax};
/// use tritgemm_candle::{BitExperts, bit_linear_no_bias};
///
/// struct Moe { router: Linear, top_k: usize, gate: BitExperts, up: BitExperts, down: BitExperts }
///
/// impl Moe {
///     fn load([k, m, experts, top_k]: [usize; 4], vb: VarBuilder) -> Result<Self> {
///         let load = |k, m, name| {
///             let one = |i| bit_linear_no_bias(k, m, vb.pp("experts").pp(i).pp(name));
///             BitExperts::new((0..experts).map(one).collect::<std::result::Result<_, _>>()?)
///         };
///         Ok(Self {
///             router: linear_no_bias(k, experts, vb.pp("gate"))?,
///             top_k,
///             gate: load(k, m, "gate_proj")?,
///             up: load(k, m, "up_proj")?,
///             down: load(m, k, "down_proj")?,
///         })
///     }
/// }
///
/// impl Module for Moe {
///     fn forward(&self, x: &Tensor) -> Result<Tensor> {
///         let tokens = x.flatten_to(D::Minus2)?; // [N, K]
///         let p = softmax(&self.router.forward(&tokens)?.to_dtype(DType::F32)?, D::Minus1)?;
///         let indices = p.arg_sort_last_dim(false)?.narrow(D::Minus1, 0, self.top_k)?.contiguous()?;
///         let weights = p.gather(&indices, D::Minus1)?;
///         let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?; // [N, k]
///
///         // [N, k, M], of one preparation of the tokens, and back to [N, K].
///         let rows = BitExperts::forward_many(&[&self.gate, &self.up], &tokens, &indices)?;
///         let rows = rows[0].silu()?.mul(&rows[1])?;
///         self.down.forward_weighted(&rows, &indices, &weights)?.reshape(x.shape())
///     }
/// }
///
/// let vb = VarBuilder::from_varmap(&candle_nn::VarMap::new(), DType::F32, &Device::Cpu);
/// let moe = Moe::load([64, 96, 8, 2], vb)?;
/// let x = Tensor::randn(0f32, 1.0, (2, 5, 64), &Device::Cpu)?;
/// assert_eq!(moe.forward(&x)?.dims(), [2, 5, 64]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BitExperts {
    shared: Arc<Shared>,
    settings: Settings,
}

/// What clones share.
#[derive(Debug)]
struct Shared {
    experts: Experts,
    /// Of each expert.
    gradients: Vec<Gradient>,
}

impl BitExperts {
    /// Of layers, in the order of the router's numbers. They run as the layers do.
    ///
    /// # Errors
    /// If the layers differ in M, K, the groups of their scales, activations and the groups
    /// of those, threads or whether their weights are in the cache.
    pub fn new(layers: Vec<BitLinear>) -> std::result::Result<Self, LoadError> {
        let settings = layers
            .first()
            .map_or_else(Settings::default, |l| l.settings);
        if let Some(expert) = layers.iter().position(|l| l.settings != settings) {
            return Err(LoadError::ExpertSettings { expert });
        }
        let linear = |layer: BitLinear| match Arc::try_unwrap(layer.packed) {
            Ok(packed) => packed.linear,
            Err(packed) => packed.linear.clone(),
        };
        let gradients = layers.iter().map(|_| Gradient::default()).collect();
        let experts = Experts::new(layers.into_iter().map(linear).collect())?;
        Ok(Self {
            shared: Arc::new(Shared { experts, gradients }),
            settings,
        })
    }

    /// K, the inputs.
    pub fn in_features(&self) -> usize {
        self.experts().in_features()
    }

    /// M, the outputs.
    pub fn out_features(&self) -> usize {
        self.experts().out_features()
    }

    /// The packed weights, scales and biases.
    pub fn experts(&self) -> &Experts {
        &self.shared.experts
    }

    /// The rows `[N, k, M]` of each token's experts, in the type of `x`: row `[n, j]` is what
    /// expert `indices[n, j]` makes of token `n` (of `x[n, j]` if `x` is `[N, k, K]`).
    ///
    /// # Errors
    /// If `indices` is not u32 `[N, k]` or holds a number that is no expert's, `x` is of
    /// another shape or type, is not on the CPU, or, with int8 activations, holds a NaN or an
    /// infinity.
    pub fn forward(&self, x: &Tensor, indices: &Tensor) -> Result<Tensor> {
        Self::forward_many(&[self], x, indices).and_then(only)
    }

    /// [`forward`](Self::forward) of several matrices of the same experts, such as gate and
    /// up: the same bits and gradients, with `x` prepared once for all that have the same
    /// mode, threads and group sizes of weights and activations.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or if there are not as many experts in each.
    pub fn forward_many(
        matrices: &[&BitExperts],
        x: &Tensor,
        indices: &Tensor,
    ) -> Result<Vec<Tensor>> {
        let Some(first) = matrices.first() else {
            return Ok(Vec::new());
        };
        let routing = Arc::new(first.routing(indices)?);
        let kind = |matrix: &BitExperts| {
            let experts = matrix.experts();
            let rotation = experts.layers().first().and_then(Linear::rotation).cloned();
            (matrix.settings, experts.group(), rotation)
        };
        let outputs = by_kind(matrices, kind, |matrices| {
            let products = Products {
                matrices,
                routing: &routing,
                inputs: &routing.inputs(x, matrices[0].in_features())?,
                weights: None,
            };
            on_tokens(x, products)
        })?;
        let with_gradient = |(&experts, output): (&&BitExperts, CpuStorage)| {
            let shape = (routing.tokens, routing.per_token, experts.out_features());
            let (experts, routing) = (experts.clone(), routing.clone());
            let backward =
                move |x: &Tensor, grad_y: &Tensor| experts.input_gradient(x, &routing, grad_y);
            x.apply_op1(Computed::new(output, shape, backward))
        };
        matrices.iter().zip(outputs).map(with_gradient).collect()
    }

    /// The sum `[N, M]` of each token's rows times their `weights`, f32 `[N, k]`, in the type
    /// of `x`: products and sums are rounded to f32, one after the other in the order of the
    /// experts, and the sum once to a 16-bit type.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or if `weights` is not f32 `[N, k]`.
    pub fn forward_weighted(
        &self,
        x: &Tensor,
        indices: &Tensor,
        weights: &Tensor,
    ) -> Result<Tensor> {
        let routing = self.routing(indices)?;
        let products = Products {
            matrices: &[self],
            routing: &routing,
            inputs: &routing.inputs(x, self.in_features())?,
            weights: Some(&routing.weights(weights)?),
        };
        let output = only(on_tokens(x, products)?)?;
        let shape = (routing.tokens, self.out_features());
        let (experts, indices) = (self.clone(), indices.clone());
        let backward = move |[x, weights]: [&Tensor; 2], grad_y: &Tensor| {
            // In f32, as the sum was.
            let grad_y = grad_y.to_dtype(DType::F32)?.unsqueeze(1)?;
            let of_x = || {
                let grad_rows = weights.detach().unsqueeze(2)?.broadcast_mul(&grad_y)?;
                experts.input_gradient(x, &routing, &grad_rows)
            };
            let of_weights = || {
                let x = x.detach().to_dtype(DType::F32)?;
                let rows = experts.forward(&x, &indices)?;
                rows.broadcast_mul(&grad_y)?.sum(D::Minus1)
            };
            Ok((
                x.track_op().then(of_x).transpose()?,
                weights.track_op().then(of_weights).transpose()?,
            ))
        };
        x.apply_op2(weights, Computed::new(output, shape, backward))
    }

    fn routing(&self, indices: &Tensor) -> Result<Routing> {
        Routing::new(indices, self.experts().layers().len())
    }

    /// The gradient of `x`, in its type, of the gradient `[N, k, M]` of the rows.
    fn input_gradient(&self, x: &Tensor, routing: &Routing, grad_y: &Tensor) -> Result<Tensor> {
        let (k, m) = (self.in_features(), self.out_features());
        let list = |rows: &[usize]| {
            let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
            let len = rows.len();
            Tensor::from_vec(rows, len, &Device::Cpu)
        };
        let grad_y = grad_y
            .to_dtype(DType::F32)?
            .reshape((routing.rows.len(), m))?;
        let (mut parts, mut rows) = (Vec::new(), &routing.rows[..]);
        let layers = self.experts().layers().iter().zip(&self.shared.gradients);
        for ((layer, gradient), &count) in layers.zip(&routing.counts) {
            let (of_expert, rest) = rows.split_at(count);
            rows = rest;
            if count > 0 {
                let grad_y = grad_y.index_select(&list(of_expert)?, 0)?;
                parts.push(gradient.of_input(layer, self.settings, &grad_y)?);
            }
        }
        if parts.is_empty() {
            return x.zeros_like();
        }
        let inputs = list(&routing.inputs(x, k)?)?;
        let sums = Tensor::zeros(x.shape(), DType::F32, &Device::Cpu)?.flatten_to(D::Minus2)?;
        let sums = sums.index_add(&inputs, &Tensor::cat(&parts, 0)?, 0)?;
        sums.reshape(x.shape())?.to_dtype(x.dtype())
    }
}

/// The products of experts that run alike, with one preparation.
struct Products<'a> {
    matrices: &'a [&'a BitExperts],
    routing: &'a Routing,
    /// The token that each row is of.
    inputs: &'a [usize],
    /// Of each row, if the rows of a token are summed.
    weights: Option<&'a [f32]>,
}

impl Work for Products<'_> {
    type Output = Vec<CpuStorage>;

    fn run<T: Float>(self, x: MatRef<'_, T>) -> Result<Vec<CpuStorage>> {
        let (first, routing) = (self.matrices[0], self.routing);
        let outputs = self.matrices.iter().map(|experts| experts.out_features());
        let macs = macs([routing.rows.len(), x.cols(), outputs.sum()]);
        let routes = Routes {
            tokens: self.inputs,
            counts: &routing.counts,
        };
        first.settings.run(macs, |ws: &mut Workspace| {
            let routed = match first.settings.mode {
                ActivationMode::Int8 => match first.settings.activation_group {
                    None => first.experts().prepare_int8(x, routes, ws),
                    Some(group) => first.experts().prepare_int8(Grouped(x, group), routes, ws),
                },
                ActivationMode::F32 => {
                    let mut wide = Vec::new();
                    let x = T::widened(x, &mut wide)?;
                    first.experts().prepare_f32(x, routes, ws)
                }
            };
            let routed = routed.map_err(Error::wrap)?;
            let output = |experts: &&BitExperts| {
                let (experts, m) = (experts.experts(), experts.out_features());
                let rows = match self.weights {
                    Some(_) => routing.tokens,
                    None => routing.rows.len(),
                };
                let mut output = float::output::<f32>(rows, m)?;
                let y = MatMut::new(&mut output, rows, m).map_err(Error::wrap)?;
                let done = match self.weights {
                    Some(weights) => {
                        experts.add_weighted(&routed, &routing.tokens_of_rows(), weights, y, ws)
                    }
                    None => experts.scatter(&routed, &routing.rows, y, ws),
                };
                done.map_err(Error::wrap)?;
                Ok(T::to_cpu_storage_owned(T::rounded(output)))
            };
            self.matrices.iter().map(output).collect()
        })
    }
}

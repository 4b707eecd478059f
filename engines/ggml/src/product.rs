//! One product of a graph, on the threads that ggml brings to its node.

use crate::layers::Packed;
use crate::settings::{Activations, activation_group};
use crate::sys::Tensor;
use std::sync::Arc;
use tritgemm::{
    Experts, Grouped, Linear, MatMut, MatRef, NonFinite, Options, ParallelFor, PreparedActivations,
    RoutedActivations, Routes, Team, Workspace,
};
use tritgemm_formats::ggml::TernaryType;

/// The team of a region that `nth` threads have entered.
pub struct Region<'a> {
    pub team: &'a Team,
    pub nth: usize,
}

impl ParallelFor for Region<'_> {
    fn workers(&self) -> usize {
        self.nth
    }

    fn spins(&self) -> bool {
        self.team.spins()
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        self.team.run(items, work);
    }
}

/// What is the plug-in's to compute at one node: its product, and later ones of the same
/// activations.
pub struct Product {
    /// At least one, and of a mixture of experts no more.
    pub parts: Vec<Part>,
    /// The type that the weights have in ggml.
    pub ty: TernaryType,
    /// The activations are those of the product before it.
    pub prepared: bool,
}

/// A node, and the weights that it is the product of.
pub struct Part {
    pub node: *mut Tensor,
    pub packed: Arc<Packed>,
}

/// What products are computed in, one after the other.
pub struct Leader {
    ws: Workspace,
    activations: Activations,
    prepared: PreparedActivations,
    routed: RoutedActivations,
    routes: Routing,
}

/// Why a product failed, for the message.
pub type Failure = Box<dyn std::error::Error>;

impl Leader {
    pub fn new(activations: Activations) -> Self {
        let options = Options::new().non_finite(NonFinite::Propagate);
        Self {
            ws: Workspace::with_options(options),
            activations,
            prepared: PreparedActivations::default(),
            routed: RoutedActivations::default(),
            routes: Routing::default(),
        }
    }

    /// Runs `work` with the workspace on a region's threads.
    pub fn on<R>(&mut self, region: &Region<'_>, work: impl FnOnce(&mut Workspace) -> R) -> R {
        self.ws.with_pool(region, work)
    }

    /// # Errors
    /// If a token is routed to no expert, or memory runs out: the outputs are not to be used.
    ///
    /// # Safety
    /// Nodes of `eligible`, whose sources have been computed, and whose outputs, which are
    /// apart, nobody else uses meanwhile.
    pub unsafe fn run(&mut self, product: &Product, region: &Region<'_>) -> Result<(), Failure> {
        let first = product.parts.first().ok_or("no product")?;
        // SAFETY: a node and its source, by the caller's promise.
        let (node, x) = unsafe { (&*first.node, &*(*first.node).src[1]) };
        let k = x.ne[0] as usize;
        let x_rows = rows_of(x);
        let stride = x.nb[1] / size_of::<f32>();
        let x_len = (x_rows - 1) * stride + k;
        // SAFETY: `eligible` has compared the strides with this length.
        let xs = unsafe { core::slice::from_raw_parts(x.data.cast::<f32>(), x_len) };
        let xs = MatRef::with_stride(xs, x_rows, k, stride)?;
        let (mut layers, mut ys) = (Vec::new(), Vec::new());
        for Part { node, packed } in &product.parts {
            if let Packed::Matrix(layer) = &**packed {
                layers.push(layer);
            }
            // SAFETY: the caller's promise: each is borrowed once.
            ys.push(unsafe { output(&**node)? });
        }
        let Self {
            ws,
            activations,
            prepared,
            routed,
            routes,
        } = self;
        let how = (*activations, product.ty);
        ws.with_pool(region, |ws| {
            if let Packed::Experts(experts) = &*first.packed {
                if !product.prepared {
                    // SAFETY: a source of a node of `eligible`.
                    unsafe {
                        routes.read(&*node.src[2], experts.layers().len(), x.ne[1] as usize)?
                    };
                    prepare_experts(experts, how, xs, routes.routes(), routed, ws)?;
                }
                let y = ys.pop().ok_or("no output")?;
                return Ok(experts.scatter(routed, &routes.outputs, y, ws)?);
            }
            if !product.prepared {
                let layer = layers.first().ok_or("no matrix")?;
                prepare(layer, how, xs, prepared, ws)?;
            }
            match activations {
                Activations::F32 => Linear::forward_many_f32(&layers, &*prepared, &mut ys, ws)?,
                _ => Linear::forward_many_int8(&layers, &*prepared, &mut ys, ws)?,
            }
            Ok(())
        })
    }
}

/// Rows of a tensor, of all its dimensions but the first.
fn rows_of(tensor: &Tensor) -> usize {
    tensor.ne[1..].iter().product::<i64>() as usize
}

/// The output of a product.
///
/// # Errors
/// None: `eligible` has looked at the shape.
///
/// # Safety
/// A node of `eligible`, whose output nobody else uses while it is borrowed.
unsafe fn output<'a>(node: &Tensor) -> Result<MatMut<'a, f32>, Failure> {
    let (rows, m) = (rows_of(node), node.ne[0] as usize);
    // SAFETY: `eligible` has compared the strides with this length.
    let values = unsafe { core::slice::from_raw_parts_mut(node.data.cast::<f32>(), rows * m) };
    Ok(MatMut::new(values, rows, m)?)
}

fn prepare(
    layer: &Linear,
    (activations, ty): (Activations, TernaryType),
    x: MatRef<'_, f32>,
    prepared: &mut PreparedActivations,
    ws: &mut Workspace,
) -> Result<(), tritgemm::GemmError> {
    match activations {
        Activations::F32 => layer.prepare_f32_into(x, prepared, ws),
        Activations::Int8 => layer.prepare_int8_into(x, prepared, ws),
        Activations::Int8Grouped => {
            layer.prepare_int8_into(Grouped(x, activation_group(ty)), prepared, ws)
        }
    }
}

fn prepare_experts(
    experts: &Experts,
    (activations, ty): (Activations, TernaryType),
    x: MatRef<'_, f32>,
    routes: Routes<'_>,
    routed: &mut RoutedActivations,
    ws: &mut Workspace,
) -> Result<(), tritgemm::GemmError> {
    match activations {
        Activations::F32 => experts.prepare_f32_into(x, routes, routed, ws),
        Activations::Int8 => experts.prepare_int8_into(x, routes, routed, ws),
        Activations::Int8Grouped => {
            experts.prepare_int8_into(Grouped(x, activation_group(ty)), routes, routed, ws)
        }
    }
}

/// Which rows of activations each expert gets, and which rows of the output it gives.
#[derive(Default)]
struct Routing {
    counts: Vec<usize>,
    tokens: Vec<usize>,
    outputs: Vec<usize>,
}

impl Routing {
    fn routes(&self) -> Routes<'_> {
        Routes {
            tokens: &self.tokens,
            counts: &self.counts,
        }
    }

    /// Sorts the experts' numbers in `ids`, `[tokens][used]`: output row
    /// `token * used + i` is that of expert `ids[token][i]` and of activation row
    /// `token * x_used + i % x_used`.
    ///
    /// # Errors
    /// If one is not the number of an expert.
    ///
    /// # Safety
    /// A tensor of i32 of these strides, in memory.
    unsafe fn read(&mut self, ids: &Tensor, experts: usize, x_used: usize) -> Result<(), Failure> {
        let [used, tokens] = [ids.ne[0], ids.ne[1]].map(|n| n as usize);
        let expert = |row: usize| {
            let at = row / used * ids.nb[1] + row % used * size_of::<i32>();
            // SAFETY: an element of the tensor, whose strides are multiples of its size.
            unsafe { ids.data.add(at).cast::<i32>().read_unaligned() }
        };
        let rows = tokens * used;
        self.counts.clear();
        self.counts.resize(experts, 0);
        for row in 0..rows {
            let number = expert(row);
            let index = usize::try_from(number).unwrap_or(usize::MAX);
            let count = self.counts.get_mut(index);
            *count.ok_or_else(|| format!("expert {number} of {experts}"))? += 1;
        }
        // Where the rows of each expert start, and then where its next one goes.
        let mut next = Vec::with_capacity(experts);
        let mut start = 0;
        for count in &self.counts {
            next.push(start);
            start += count;
        }
        self.tokens.resize(rows, 0);
        self.outputs.resize(rows, 0);
        for row in 0..rows {
            let at = &mut next[expert(row) as usize];
            self.tokens[*at] = row / used * x_used + row % used % x_used;
            self.outputs[*at] = row;
            *at += 1;
        }
        Ok(())
    }
}

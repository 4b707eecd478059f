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

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        self.team.run(items, work);
    }
}

/// A node that is the plug-in's to compute.
pub struct Product {
    pub node: *mut Tensor,
    pub packed: Arc<Packed>,
    /// The type that the weights have in ggml.
    pub ty: TernaryType,
    /// The activations are those of the product before it.
    pub prepared: bool,
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
    /// A node of `eligible`, whose sources have been computed, and whose output nobody
    /// else uses meanwhile.
    pub unsafe fn run(&mut self, product: &Product, region: &Region<'_>) -> Result<(), Failure> {
        // SAFETY: a node and its source, by the caller's promise.
        let (node, x) = unsafe { (&*product.node, &*(*product.node).src[1]) };
        let [k, m] = [x.ne[0] as usize, node.ne[0] as usize];
        let [x_rows, y_rows] = [x, node].map(|it| it.ne[1..].iter().product::<i64>() as usize);
        let stride = x.nb[1] / size_of::<f32>();
        let x_len = (x_rows - 1) * stride + k;
        // SAFETY: `eligible` has compared the strides with these lengths.
        let (xs, ys) = unsafe {
            (
                core::slice::from_raw_parts(x.data.cast::<f32>(), x_len),
                core::slice::from_raw_parts_mut(node.data.cast::<f32>(), y_rows * m),
            )
        };
        let xs = MatRef::with_stride(xs, x_rows, k, stride)?;
        let ys = MatMut::new(ys, y_rows, m)?;
        let Self {
            ws,
            activations,
            prepared,
            routed,
            routes,
        } = self;
        ws.with_pool(region, |ws| match &*product.packed {
            Packed::Matrix(layer) => {
                if !product.prepared {
                    prepare(layer, (*activations, product.ty), xs, prepared, ws)?;
                }
                match activations {
                    Activations::F32 => layer.forward_f32(&*prepared, ys, ws)?,
                    _ => layer.forward_int8(&*prepared, ys, ws)?,
                }
                Ok(())
            }
            Packed::Experts(experts) => {
                if !product.prepared {
                    // SAFETY: a source of a node of `eligible`.
                    unsafe {
                        routes.read(&*node.src[2], experts.layers().len(), x.ne[1] as usize)?
                    };
                    let how = (*activations, product.ty);
                    prepare_experts(experts, how, xs, routes.routes(), routed, ws)?;
                }
                Ok(experts.scatter(routed, &routes.outputs, ys, ws)?)
            }
        })
    }
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

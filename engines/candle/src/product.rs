//! Products of one layer or several.

use crate::float::{self, Float, Work, on_tokens};
use crate::op::Computed;
use crate::settings::macs;
use crate::{ActivationMode, BitLinear};
use candle_core::{CpuStorage, Error, Result, Tensor};
use tritgemm::{Grouped, Linear, MatMut, MatRef, PreparedActivations, Workspace};

/// The outputs of `layers`, in order, for one input, which may be prepared: one
/// preparation and one loop for all that run alike.
pub(crate) fn products(
    layers: &[&BitLinear],
    x: &Tensor,
    prepared: Option<&PreparedActivations>,
) -> Result<Vec<Tensor>> {
    for layer in layers {
        float::check_input(x.shape(), layer.in_features())?;
    }
    let kind = |layer: &BitLinear| {
        let rotation = layer.linear().rotation().cloned();
        (layer.settings, layer.group(), rotation)
    };
    let outputs = by_kind(layers, kind, |layers| {
        on_tokens(x, Products { layers, prepared })
    })?;
    let with_gradient = |(&layer, output): (&&BitLinear, CpuStorage)| {
        let (shape, layer) = (float::with_last(x, layer.out_features()), layer.clone());
        let backward = move |_: &Tensor, grad_y: &Tensor| {
            let packed = &layer.packed;
            packed
                .gradient
                .of_input(&packed.linear, layer.settings, grad_y)
        };
        x.apply_op1(Computed::new(output, shape, backward))
    };
    layers.iter().zip(outputs).map(with_gradient).collect()
}

/// Does `work` with the layers of each kind together; what comes of it in the
/// order of `layers`.
pub(crate) fn by_kind<L, K: PartialEq, Y>(
    layers: &[&L],
    kind: impl Fn(&L) -> K,
    work: impl Fn(&[&L]) -> Result<Vec<Y>>,
) -> Result<Vec<Y>> {
    let mut outputs: Vec<Option<Y>> = layers.iter().map(|_| None).collect();
    for (first, layer) in layers.iter().enumerate() {
        if outputs[first].is_some() {
            continue;
        }
        let alike = (first..layers.len()).filter(|&i| kind(layers[i]) == kind(layer));
        let alike: Vec<usize> = alike.collect();
        let together: Vec<&L> = alike.iter().map(|&i| layers[i]).collect();
        for (i, output) in alike.into_iter().zip(work(&together)?) {
            outputs[i] = Some(output);
        }
    }
    Ok(outputs.into_iter().flatten().collect())
}

/// The products of layers that run alike.
struct Products<'a> {
    layers: &'a [&'a BitLinear],
    prepared: Option<&'a PreparedActivations>,
}

impl Work for Products<'_> {
    type Output = Vec<CpuStorage>;

    fn run<T: Float>(self, x: MatRef<'_, T>) -> Result<Vec<CpuStorage>> {
        let (tokens, settings) = (x.rows(), self.layers[0].settings);
        let linears: Vec<&Linear> = self.layers.iter().map(|layer| layer.linear()).collect();
        let outputs = linears
            .iter()
            .map(|linear| float::output::<T>(tokens, linear.out_features()));
        let mut outputs = outputs.collect::<Result<Vec<_>>>()?;
        let ys = linears
            .iter()
            .zip(&mut outputs)
            .map(|(linear, y)| MatMut::new(y, tokens, linear.out_features()).map_err(Error::wrap));
        let mut ys = ys.collect::<Result<Vec<_>>>()?;
        let rows = linears.iter().map(|linear| linear.out_features()).sum();
        let multiply = |ws: &mut Workspace| -> Result<()> {
            let (layers, ys) = (&linears[..], &mut ys[..]);
            let done = match (self.prepared, settings.mode) {
                (Some(x), ActivationMode::Int8) => Linear::forward_many_int8(layers, x, ys, ws),
                (Some(x), ActivationMode::F32) => Linear::forward_many_f32(layers, x, ys, ws),
                (None, ActivationMode::Int8) => match settings.activation_group {
                    None => Linear::forward_many_int8(layers, x, ys, ws),
                    Some(group) => Linear::forward_many_int8(layers, Grouped(x, group), ys, ws),
                },
                (None, ActivationMode::F32) => {
                    let mut wide = Vec::new();
                    Linear::forward_many_f32(layers, T::widened(x, &mut wide)?, ys, ws)
                }
            };
            done.map_err(Error::wrap)
        };
        settings.run(macs([tokens, x.cols(), rows]), multiply)?;
        Ok(outputs.into_iter().map(T::to_cpu_storage_owned).collect())
    }
}

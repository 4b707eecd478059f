//! The gate of a feed-forward layer, in one pass: operation by operation it would go through
//! memory three times.

use super::config::GateActivation;
use candle_core::{CpuStorage, Device, Result, Storage, Tensor};
use rayon::prelude::*;

/// Values that a thread takes at a time.
const CHUNK: usize = 1 << 13;

/// The activation of `gate` times `up`, both f32 of one shape, dense.
pub(super) fn gated(gate: &Tensor, up: &Tensor, activation: GateActivation) -> Result<Tensor> {
    let (gate_storage, gate_layout) = gate.storage_and_layout();
    let (up_storage, up_layout) = up.storage_and_layout();
    let (Storage::Cpu(CpuStorage::F32(a)), Storage::Cpu(CpuStorage::F32(b))) =
        (&*gate_storage, &*up_storage)
    else {
        candle_core::bail!("a gate takes f32 values on the CPU");
    };
    let (Some((start, end)), Some((up_start, up_end))) = (
        gate_layout.contiguous_offsets(),
        up_layout.contiguous_offsets(),
    ) else {
        candle_core::bail!("a gate takes dense values");
    };
    let (a, b) = (&a[start..end], &b[up_start..up_end]);
    let mut y = vec![0.0; a.len()];
    match activation {
        GateActivation::Silu => each(&mut y, a, b, |gate, up| gate / (1.0 + (-gate).exp()) * up),
        GateActivation::SquaredRelu => each(&mut y, a, b, |gate, up| {
            let gate = gate.max(0.0);
            gate * gate * up
        }),
    }
    Tensor::from_vec(y, gate.shape(), &Device::Cpu)
}

fn each(y: &mut [f32], a: &[f32], b: &[f32], of: impl Fn(f32, f32) -> f32 + Sync) {
    let inputs = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
    y.par_chunks_mut(CHUNK).zip(inputs).for_each(|(y, (a, b))| {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = of(*a, *b);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_candles_operations() -> Result<()> {
        let random = || Tensor::randn(0f32, 2.0, (3, CHUNK / 2 + 7), &Device::Cpu);
        let (gate, up) = (random()?, random()?);
        for (activation, expected) in [
            (GateActivation::Silu, gate.silu()?.mul(&up)?),
            (GateActivation::SquaredRelu, gate.relu()?.sqr()?.mul(&up)?),
        ] {
            let off = (gated(&gate, &up, activation)? - expected)?.abs()?;
            let off = off.max_all()?.to_scalar::<f32>()?;
            assert!(off < 1e-5, "{activation:?}: {off}");
        }
        Ok(())
    }
}

//! A case computed by the library.

use super::case::{Case, Inputs, Outcome, Path};
use anyhow::{Result, bail, ensure};
use tritgemm::codec::{self, Mode};
use tritgemm::quant::QuantError;
use tritgemm::{
    Activation, Backend, GemmError, Linear, MatMut, MatRef, Options, PanelFile, Panels,
    PrepareError, PreparedActivations, Verify, Workspace,
};

/// What stands in an output before it is computed.
const CANARY_I32: i32 = 0x5a5a_5a5a;
const CANARY_F32: f32 = -12345.678;

impl Case {
    /// What comes out on `backend`.
    pub fn computed(&self, backend: Backend) -> Result<Outcome> {
        if self.path == Path::Codec {
            return self.codec(backend);
        }
        let options = Options::new()
            .backend(backend)
            .lanes(self.lanes)
            .threads(self.threads);
        let mut ws = Workspace::with_options(options);
        let layer = self.layer(backend)?;
        let first = self.product(&layer, &mut ws)?;
        for _ in 1..self.repeats {
            // A workspace that was used must not show.
            ensure!(
                self.product(&layer, &mut ws)? == first,
                "the second time differs"
            );
        }
        Ok(first)
    }

    fn layer(&self, backend: Backend) -> Result<Linear> {
        let panels = Panels::pack_with(backend, self.threads, &self.matrix)?;
        let scales = self.matrix.scales().clone();
        let layer = Linear::from_parts(panels, scales, self.bias.clone())?;
        match self.path {
            Path::Slice => Ok(layer.slice_rows(self.rows.clone())?),
            Path::PanelFile => self.through_a_file(&layer),
            _ => Ok(layer),
        }
    }

    /// The layer written and read again, once in a while on the disk.
    fn through_a_file(&self, layer: &Linear) -> Result<Linear> {
        let file = PanelFile::from(layer);
        if self.variant == 0 {
            let dir = tempfile::tempdir()?;
            let path = dir.path().join("layer");
            file.save(&path)?;
            return Ok(Linear::load(&path)?);
        }
        let mut bytes = Vec::new();
        file.write_to(&mut bytes)?;
        let verify = if self.variant.is_multiple_of(2) {
            Verify::Full
        } else {
            Verify::Header
        };
        Ok(Linear::try_from(PanelFile::from_bytes(bytes, verify)?)?)
    }

    fn product(&self, layer: &Linear, ws: &mut Workspace) -> Result<Outcome> {
        match &self.inputs {
            Inputs::Int8(x, _) if self.raw() => self.framed(
                x,
                77,
                CANARY_I32,
                |v| v as u32,
                |x, y| {
                    let panels = layer.panels();
                    if !self.variant.is_multiple_of(4) {
                        return panels.gemm_i8(x, y, ws);
                    }
                    let scales = vec![1.0; x.rows()];
                    match PreparedActivations::int8(x, scales, None, ws) {
                        Ok(prepared) => panels.gemm_i8_prepared(&prepared, y, ws),
                        Err(error) => Err(unprepared(error)),
                    }
                },
            ),
            Inputs::Int8(x, scales) => self.layer_product(x, 77, |x, y| {
                let prepared = PreparedActivations::int8(x, scales.clone(), self.group(), ws);
                layer.forward_prepared(&prepared.map_err(unprepared)?, y, ws)
            }),
            Inputs::Float(x) => self.layer_product(x, f32::NAN, |x, y| {
                if self.path != Path::Prepared {
                    return layer.forward_f32(x, y, ws);
                }
                let prepared = PreparedActivations::float(x, self.group(), ws);
                layer.forward_prepared(&prepared.map_err(unprepared)?, y, ws)
            }),
            Inputs::F32(x) => self.quantized(layer, x, f32::NAN, ws),
            Inputs::F16(x) => self.quantized(layer, x, half::f16::NAN, ws),
            Inputs::Bf16(x) => self.quantized(layer, x, half::bf16::NAN, ws),
        }
    }

    fn quantized<T: Activation>(
        &self,
        layer: &Linear,
        x: &[T],
        poison: T,
        ws: &mut Workspace,
    ) -> Result<Outcome> {
        self.layer_product(x, poison, |x, y| {
            if self.path != Path::Prepared {
                return layer.forward(x, y, ws);
            }
            let prepared = PreparedActivations::quantize(x, self.group(), ws);
            layer.forward_prepared(&prepared.map_err(unprepared)?, y, ws)
        })
    }

    fn layer_product<X: Copy>(
        &self,
        x: &[X],
        poison: X,
        run: impl FnOnce(MatRef<'_, X>, MatMut<'_, f32>) -> Result<(), GemmError>,
    ) -> Result<Outcome> {
        self.framed(x, poison, CANARY_F32, f32::to_bits, run)
    }

    /// Runs a product on operands with gaps between their rows: full of
    /// `poison`, which must not be read, and of `canary`, which must stay.
    fn framed<X: Copy, Y: Copy>(
        &self,
        x: &[X],
        poison: X,
        canary: Y,
        bits: impl Fn(Y) -> u32,
        run: impl FnOnce(MatRef<'_, X>, MatMut<'_, Y>) -> Result<(), GemmError>,
    ) -> Result<Outcome> {
        let [_, k, n] = self.sizes;
        let m = self.rows.len();
        let [x_stride, y_stride] = [k + self.gaps[0], m + self.gaps[1]];
        // From an odd element on, so that no row is aligned.
        let mut strided = vec![poison; 1 + n * x_stride];
        for token in 0..n {
            strided[1 + token * x_stride..][..k].copy_from_slice(&x[token * k..][..k]);
        }
        let mut out = vec![canary; 3 + n * y_stride];
        let x = MatRef::with_stride(&strided[1..], n, k, x_stride)?;
        let y = MatMut::with_stride(&mut out[3..], n, m, y_stride)?;
        let done = run(x, y);

        let (mut inside, canary) = (Vec::with_capacity(n * m), bits(canary));
        for (i, value) in out.into_iter().map(bits).enumerate() {
            match i.checked_sub(3) {
                Some(at) if at % y_stride < m => inside.push(value),
                _ => ensure!(value == canary, "element {i} around the output was written"),
            }
        }
        match done {
            Ok(()) => Ok(Outcome::Bits(inside)),
            Err(GemmError::Quant(QuantError::Activation { token, index, .. })) => {
                let touched = inside.iter().any(|&bits| bits != canary);
                ensure!(!touched, "the output was written before an error");
                Ok(Outcome::NotFinite { token, index })
            }
            Err(error) => bail!(error),
        }
    }

    /// Encodes, decodes to trits and to floats.
    fn codec(&self, backend: Backend) -> Result<Outcome> {
        let ([m, k, _], trits) = (self.sizes, &self.trits);
        let mode = if self.variant.is_multiple_of(2) {
            Mode::Strict
        } else {
            Mode::Lenient
        };
        let mut packed = vec![0xa5; codec::packed_len(m, k)?];
        codec::encode_with(backend, trits, m, k, &mut packed, mode)?;
        let mut back = vec![77; trits.len()];
        codec::decode_with(backend, &packed, m, k, &mut back, mode)?;
        let scales: Vec<f32> = (0..m).map(|row| self.row_scale(row)).collect();
        let mut floats = vec![CANARY_F32; trits.len()];
        codec::decode_f32_with(backend, &packed, m, k, &scales, &mut floats, mode)?;
        let mut bits: Vec<u32> = packed.into_iter().map(u32::from).collect();
        bits.extend(back.into_iter().map(|t| t as u32));
        bits.extend(floats.into_iter().map(f32::to_bits));
        Ok(Outcome::Bits(bits))
    }
}

/// Preparing fails for the reasons that a product does.
fn unprepared(error: PrepareError) -> GemmError {
    match error {
        PrepareError::Quant(error) => error.into(),
        PrepareError::Isa(error) => error.into(),
        // There is one scale a token.
        _ => unreachable!("{error}"),
    }
}
